# What the gateway asks: `data.gateway.decision`, about everything that an agent wants to do. It takes precedence itself:
# any `deny` denies; without `allow` it is denied; else any `hold` waits for a person; else it is allowed.
#
# Leave this file as it is. Add files beside it, of `package gateway`, with rules of your own:
#   allow if ...          deny contains {"code": ..., "message": ...} if ...
#   visible := false if ...   hold contains {"code": ..., "reason": ...} if ...   obligations contains {"id": ...} if ...
package gateway

decision := {
	"allow": allow,
	"deny": deny,
	"hold": hold,
	"obligations": obligations,
}

# What no rule allows is denied.
default allow := false

# These sets exist, and are empty, where nobody adds to them.
deny contains {} if false

hold contains {} if false

obligations contains {} if false
