package gateway

# A method that the gateway does not know itself passes only by name. Its params stand in input.arguments.
allow if {
	input.resource.type == "method"
	input.action.name in {"tasks/get", "tasks/result"}
	has_role({"local", "reader"})
}
