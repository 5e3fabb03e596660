"""The words of the gateway: frozen values that every layer shares. Standard library only; no I/O, no clock."""
