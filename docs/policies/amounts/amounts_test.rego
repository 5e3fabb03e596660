package amounts_test

import data.gateway

decide(arguments) := answer if {
	question := {
		"subject": {"roles": ["payer"]},
		"action": {"name": "tools/call"},
		"resource": {"id": "bank/transfer", "risk": "external"},
		"arguments": arguments,
	}
	answer := gateway.decision with input as question
}

codes(entries) := {entry.code | some entry in entries}

test_a_small_transfer_is_allowed if {
	answer := decide({"amount": 1000})
	answer.allow
	codes(answer.hold) | codes(answer.deny) == set()
}

test_a_large_one_waits_for_finance if {
	answer := decide({"amount": 1000.01})
	answer.allow
	[approvers] := [reason.approvers | some reason in answer.hold; reason.code == "amount_review"]
	approvers == ["group:finance"]
}

test_a_huge_one_and_what_is_no_amount_is_denied if {
	every amount in [50000.01, -5, 0, "5", null, [5]] {
		"amount_limit" in codes(decide({"amount": amount}).deny)
	}
	"amount_limit" in codes(decide({}).deny)
}
