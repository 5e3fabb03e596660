# The benchmark's policy: what a gateway asks for each call, in about 150 lines.
package gateway

import data.limits
import data.roles
import data.servers

decision := {
	"allow": allow,
	"deny": deny,
	"hold": hold,
	"obligations": obligations,
}

default allow := false

# Roles ---------------------------------------------------------------------

role_entries contains entry if {
	some name in input.subject.roles
	entry := roles[name]
}

allow if {
	some entry in role_entries
	some pattern in entry.tools
	glob.match(pattern, ["/"], input.resource.id)
	risk_level <= entry.max_risk
}

allow if {
	input.action.name == "prompts/get"
	some entry in role_entries
	entry.prompts
}

risk_levels := {"read": 0, "write": 1, "destructive": 2}

default risk_level := 2

risk_level := risk_levels[input.resource.risk]

# Paths ---------------------------------------------------------------------

path_arguments := {"path", "repo_path", "file", "directory", "source", "destination"}

paths contains path if {
	some name, path in input.arguments
	name in path_arguments
	is_string(path)
}

paths contains path if {
	some path in input.arguments.paths
}

roots := servers[input.resource.server].roots

inside_root(path) if {
	some root in roots
	path == root
}

inside_root(path) if {
	some root in roots
	startswith(path, concat("", [root, "/"]))
}

deny contains {"code": "path_outside_root", "message": message} if {
	some path in paths
	not inside_root(path)
	message := sprintf("%s is outside of the roots of %s", [path, input.resource.server])
}

deny contains {"code": "path_traversal", "message": message} if {
	some path in paths
	".." in split(path, "/")
	message := sprintf("%s goes up", [path])
}

deny contains {"code": "hidden_file", "message": path} if {
	some path in paths
	regex.match(`(^|/)\.(ssh|aws|env|git/config)`, path)
}

# SQL -----------------------------------------------------------------------

sql_verb := upper(split(trim_space(input.arguments.query), " ")[0])

deny contains {"code": "sql_verb", "message": message} if {
	input.resource.server == "db"
	not sql_verb in {"SELECT", "EXPLAIN", "SHOW", "WITH"}
	not "dba" in input.subject.roles
	message := sprintf("%s is not allowed", [sql_verb])
}

deny contains {"code": "sql_many", "message": "one statement a call"} if {
	input.resource.server == "db"
	contains(trim_right(trim_space(input.arguments.query), ";"), ";")
}

# Amounts -------------------------------------------------------------------

amount := input.arguments.amount

limit := limits[input.subject.id].daily

hold contains entry if {
	input.resource.name == "transfer"
	amount > 1000
	entry := {
		"code": "amount_review",
		"reason": sprintf("%v is above 1000", [amount]),
		"approvers": ["group:finance"],
		"expires_seconds": 3600,
	}
}

deny contains {"code": "amount_limit", "message": message} if {
	input.resource.name == "transfer"
	amount > limit
	message := sprintf("%v is above the limit of %v", [amount, limit])
}

# Time windows --------------------------------------------------------------

clock := time.clock([input.context.time_ns, "Europe/Berlin"])

weekend if time.weekday([input.context.time_ns, "Europe/Berlin"]) in {"Saturday", "Sunday"}

office_hours if {
	not weekend
	clock[0] >= 7
	clock[0] < 19
}

hold contains {"code": "out_of_hours", "reason": "writes outside of office hours", "approvers": ["role:oncall"]} if {
	risk_level > 0
	not office_hours
}

deny contains {"code": "too_fast", "message": "more than 10 calls in the last minute"} if {
	count([call |
		some call in input.context.recent
		input.context.time_ns - call.time_ns < 60 * 1000000000
	]) > 10
}

# Obligations ---------------------------------------------------------------

obligations contains {"id": "redact_result", "paths": ["**.iban", "**.password"]} if {
	not "auditor" in input.subject.roles
}

obligations contains {"id": "limit_result", "max_bytes": 65536} if {
	input.resource.risk == "read"
	not input.subject.claims.unlimited
}
