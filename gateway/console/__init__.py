"""The operators' side of the gateway: the API at `/api/v1`, and the console for people at `/console`.

Both look and act through `gateway.acts` alone, so that roles are checked and acts are recorded in one place.
"""
