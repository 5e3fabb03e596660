package gateway

# Agents do not even see tools that they could never call. A hidden tool answers like one that does not exist.
visible := false if {
	input.resource.type == "tool"
	input.resource.risk == "external"
	not "payer" in input.subject.roles
}
