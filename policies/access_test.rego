package gateway_test

import data.gateway

question(roles, method, risk) := {
	"version": 1,
	"subject": {"type": "agent", "id": "someone", "roles": roles, "claims": {}},
	"action": {"name": method},
	"resource": {
		"type": "tool",
		"id": "git/some_tool",
		"server": "git",
		"name": "some_tool",
		"risk": risk,
		"annotations": {},
		"definition_sha256": "",
	},
	"arguments": {},
	"meta": {},
	"context": {"approval": null, "recent": []},
}

decide(roles, method, risk) := answer if {
	answer := gateway.decision with input as question(roles, method, risk)
}

test_reading_is_allowed_by_role if {
	every role in ["local", "reader", "writer"] {
		answer := decide([role], "tools/call", "read")
		answer.allow
		answer.deny == set()
		answer.hold == set()
	}
}

test_resources_and_prompts_are_read_whatever_the_risk_of_the_tools if {
	every method in ["resources/read", "resources/subscribe", "prompts/get", "completion/complete"] {
		answer := decide(["reader"], method, "write")
		answer.allow
		answer.hold == set()
	}
}

test_writing_waits_for_a_person if {
	every role in ["local", "reader"] {
		answer := decide([role], "tools/call", "write")
		answer.allow
		{reason.code | some reason in answer.hold} == {"write"}
	}
}

test_a_writer_writes if {
	answer := decide(["reader", "writer"], "tools/call", "write")
	answer.allow
	answer.hold == set()
}

test_the_rest_is_denied if {
	not decide(["stranger"], "tools/call", "read").allow
	not decide([], "tools/call", "read").allow
	not decide(["local", "writer"], "tools/call", "external").allow
	not decide(["local", "writer"], "tasks/get", "read").allow
}

test_nothing_is_hidden_to_begin_with if {
	not gateway.visible with input as question(["stranger"], "tools/list", "read")
}
