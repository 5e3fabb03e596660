package gateway

# Look before you commit: `git_diff` has to have worked in this session, after the last commit.
deny contains {"code": "diff_first", "message": "call git_diff before git_commit"} if {
	input.resource.id == "git/git_commit"
	not looked
}

looked if {
	some at, call in input.context.recent
	call.tool == "git/git_diff"
	call.outcome == "completed"
	every later in array.slice(input.context.recent, at, count(input.context.recent)) {
		later.tool != "git/git_commit"
	}
}
