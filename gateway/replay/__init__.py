"""Recorded calls judged again, limited again, and compared: what another policy or another limit would have done."""
