"""The agents' side: MCP in, in both protocol eras, over HTTP and stdio.

    listener      uvicorn with deadlines           stdio       a connection of messages, and this process's pipes
    security      Host and Origin                  parsing     bytes to one message, strictly
    http          /mcp: POST, GET, DELETE          headers     2026-07-28: headers say what the body says
    sessions      both eras' sessions              streams     event streams that can be resumed
    answering     discovery, lists, ping           lists       what the principal may see, encoded once
    calls         request -> Call -> answer        parking     calls that wait for their client between two requests
    subscriptions subscriptions/listen             wire        the one module that makes answers
    protocol      the protocol's constants         settings    what all this needs of the configuration

Towards the inside there is one object, `gateway.control.Gateway`; nothing here knows stages, stores or tool servers.
"""
