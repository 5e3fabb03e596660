package gateway

deny contains {"code": "only_utc", "message": "Ask for UTC, and convert it yourself."} if {
	input.resource.id == "time/get_current_time"
	input.arguments.timezone != "UTC"
}
