package office_hours_test

import data.gateway

denied(risk, moment) if {
	question := {"resource": {"risk": risk}, "context": {"time_ns": time.parse_rfc3339_ns(moment)}}
	some denial in gateway.deny with input as question
	denial.code == "office_hours"
}

test_friday_morning_is_fine if not denied("write", "2026-11-20T07:00:00Z") # 8 o'clock in Berlin

test_before_and_after_is_denied if {
	denied("write", "2026-11-20T06:59:59Z")
	denied("external", "2026-11-20T17:00:00Z")
}

test_the_weekend_is_denied if denied("write", "2026-11-21T11:00:00Z")

test_reading_is_always_fine if not denied("read", "2026-11-21T11:00:00Z")
