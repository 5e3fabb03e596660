package extension_test

import data.gateway

allowed(method, roles) if {
	question := {
		"subject": {"roles": roles},
		"action": {"name": method},
		"resource": {"type": "method", "risk": "write"},
	}
	gateway.allow with input as question
}

test_named_methods_pass if allowed("tasks/get", ["reader"])

test_others_do_not if {
	not allowed("tasks/cancel", ["reader"])
	not allowed("tasks/get", ["stranger"])
}
