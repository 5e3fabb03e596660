package gateway

allow if {
	input.resource.id == "bank/transfer"
	"payer" in input.subject.roles
}

hold contains {
	"code": "amount_review",
	"reason": sprintf("a transfer of %v needs a second pair of eyes", [input.arguments.amount]),
	"approvers": ["group:finance"],
	"expires_seconds": 3600,
} if {
	input.resource.id == "bank/transfer"
	input.arguments.amount > 1000
}

deny contains {"code": "amount_limit", "message": "transfers above 50000 are not made by agents"} if {
	input.resource.id == "bank/transfer"
	not acceptable
}

# A string compares as larger than every number in Rego, so the type is part of the rule.
acceptable if {
	is_number(input.arguments.amount)
	input.arguments.amount > 0
	input.arguments.amount <= 50000
}
