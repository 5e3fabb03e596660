package gateway

# A tool whose definition changed since it was reviewed is not called until somebody looks at it again.
reviewed := {"mail/send_report": "3f0a8c6e5d0b5a0c8c7b6f0e1d2c3b4a59687776655443322110ffeeddccbbaa"}

deny contains {"code": "definition_changed", "message": "the tool is not what was reviewed; an operator has to look at it"} if {
	some id, sha256 in reviewed
	input.resource.id == id
	input.resource.definition_sha256 != sha256
}
