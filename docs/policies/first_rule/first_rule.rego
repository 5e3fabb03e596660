package gateway

deny contains {"code": "friday_release", "message": "releases wait until Monday"} if {
	input.resource.id == "ci/release"
	time.weekday(input.context.time_ns) == "Friday"
}
