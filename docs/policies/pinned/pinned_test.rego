package pinned_test

import data.gateway

denied(id, sha256) if {
	some denial in gateway.deny with input as {"resource": {"id": id, "definition_sha256": sha256}}
	denial.code == "definition_changed"
}

test_the_reviewed_definition_passes if not denied("mail/send_report", gateway.reviewed["mail/send_report"])

test_another_one_is_denied if denied("mail/send_report", "00")

test_tools_without_a_review_are_not_its_business if not denied("mail/read", "00")
