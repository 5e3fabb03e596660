package gateway

# tools_of/data.json is mounted as data.tools_of: which agent may call which tools beside what its roles say.
allow if {
	some pattern in data.tools_of[input.subject.id]
	glob.match(pattern, ["/"], input.resource.id)
}
