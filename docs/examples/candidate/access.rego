# Who may do what, to begin with. `local` is everybody where servers.toml has no [agents]; other roles are given to agents
# there (`roles = ["reader"]`). Change this file, or add another: rules of one name are taken together.
package gateway

# reader: may read, and may write once a person has approved the very call.
# local, writer: may read and write. (In this candidate; the policies it is compared with hold what local writes.)
may_read := {"local", "reader", "writer"}

may_write := {"writer", "local"}

allow if {
	reads
	has_role(may_read)
}

allow if {
	writes
	has_role(may_read | may_write)
}

hold contains {"code": "write", "reason": reason} if {
	writes
	not has_role(may_write)
	reason := sprintf("%s changes something, so a person has to approve it", [input.resource.id])
}

# Everything else is denied: tools of risk "external" (mail, payments, other people's systems), extensions' methods.

# A tool reads if servers.toml says so; resources and prompts are read by what they are.
reads if {
	input.action.name == "tools/call"
	input.resource.risk == "read"
}

reads if input.action.name in {"resources/read", "resources/subscribe", "prompts/get", "completion/complete"}

writes if {
	input.action.name == "tools/call"
	input.resource.risk == "write"
}

has_role(wanted) if {
	some role in input.subject.roles
	role in wanted
}
