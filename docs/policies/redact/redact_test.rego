package redact_test

import data.gateway

ids(server, roles) := {obligation.id |
	question := {"resource": {"server": server}, "subject": {"roles": roles}}
	some obligation in gateway.obligations with input as question
}

test_results_of_the_crm_are_redacted if ids("crm", ["reader"]) == {"redact_arguments", "redact_result"}

test_finance_sees_everything if ids("crm", ["reader", "finance"]) == {"redact_arguments"}

test_other_servers_are_left_alone if ids("git", ["reader"]) == {"redact_arguments"}
