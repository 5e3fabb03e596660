package first_rule_test

import data.gateway

denied(moment) if {
	question := {"resource": {"id": "ci/release"}, "context": {"time_ns": time.parse_rfc3339_ns(moment)}}
	some denial in gateway.deny with input as question
	denial.code == "friday_release"
}

test_a_release_on_friday_is_denied if denied("2026-11-20T20:11:00Z")

test_a_release_on_monday_is_not if not denied("2026-11-23T08:00:00Z")
