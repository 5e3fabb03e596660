"""The gateway's client side: links to tool servers, their catalogues, and the one way to forward a call."""
