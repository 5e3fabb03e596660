package caps_test

import data.gateway

limits(arguments) := {obligation.value |
	some obligation in gateway.obligations with input as {
		"resource": {"id": "db/query", "server": "db"},
		"arguments": arguments,
	}
	obligation.id == "set_argument"
}

test_a_large_limit_is_capped if {
	limits({"limit": 101}) == {100}
	limits({}) == {100}
	limits({"limit": "all"}) == {100}
}

test_a_modest_one_stays if limits({"limit": 100}) == set()
