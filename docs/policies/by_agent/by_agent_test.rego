package by_agent_test

import data.gateway

allowed(agent, tool) if {
	question := {
		"subject": {"id": agent, "roles": []},
		"action": {"name": "tools/call"},
		"resource": {"id": tool, "risk": "external"},
	}
	gateway.allow with input as question
}

test_agents_call_their_own_tools if {
	allowed("claude", "mail/send_report")
	allowed("claude", "calendar/list")
	allowed("reporter", "mail/send_report")
}

test_and_no_others if {
	not allowed("claude", "mail/delete")
	not allowed("reporter", "mail/send_invoice")
	not allowed("stranger", "calendar/list")
}
