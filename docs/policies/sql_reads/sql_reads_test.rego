package sql_reads_test

import data.gateway

denied(arguments) if {
	some denial in gateway.deny with input as {"resource": {"id": "db/query"}, "arguments": arguments}
	denial.code == "sql_changes"
}

test_a_select_passes if not denied({"sql": " Select name from people"})

test_all_else_is_denied if {
	denied({"sql": "delete from people"})
	denied({"sql": "select 1; drop table people"})
	denied({"sql": "SELECT * INTO copy FROM people"})
	denied({"sql": ["select 1"]})
	denied({})
}
