package gateway

weekend := {"Saturday", "Sunday"}

deny contains {"code": "office_hours", "message": "changes are made on working days from 8 to 18 o'clock, Berlin time"} if {
	input.resource.risk != "read"
	not office_hours
}

office_hours if {
	here := [input.context.time_ns, "Europe/Berlin"]
	not time.weekday(here) in weekend
	[hour, _, _] := time.clock(here)
	hour >= 8
	hour < 18
}
