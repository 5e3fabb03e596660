package gateway

# One statement that begins with SELECT, and none of the words that change something.
deny contains {"code": "sql_changes", "message": "only a single SELECT is allowed here"} if {
	input.resource.id == "db/query"
	not harmless
}

harmless if {
	sql := input.arguments.sql
	is_string(sql)
	regex.match(`(?is)^\s*select\b`, sql)
	not contains(sql, ";")
	not regex.match(`(?i)\b(insert|update|delete|drop|alter|create|grant|truncate|into)\b`, sql)
}
