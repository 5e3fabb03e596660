package gateway

# At most a hundred rows, whatever was asked for. The changed call is validated and judged again before it is sent.
obligations contains {"id": "set_argument", "path": "limit", "value": 100} if {
	input.resource.id == "db/query"
	not modest
}

modest if input.arguments.limit <= 100

obligations contains {"id": "limit_result", "max_bytes": 100000} if input.resource.server == "db"
