package order_test

import data.gateway

denied(recent) if {
	question := {"resource": {"id": "git/git_commit"}, "context": {"recent": recent}}
	some denial in gateway.deny with input as question
	denial.code == "diff_first"
}

diff := {"tool": "git/git_diff", "outcome": "completed"}

commit := {"tool": "git/git_commit", "outcome": "completed"}

test_a_look_allows_one_commit if {
	not denied([diff])
	not denied([commit, diff, {"tool": "git/git_log", "outcome": "completed"}])
	denied([diff, commit])
}

test_without_a_look_it_is_denied if {
	denied([])
	denied([{"tool": "git/git_diff", "outcome": "error"}])
}
