package gateway

roots := {"/srv/repos", "/srv/docs"}

path_arguments := {"path", "repo_path", "source", "destination"}

deny contains {"code": "path_outside_root", "message": message} if {
	some name in path_arguments
	path := input.arguments[name]
	not below_a_root(path)
	message := sprintf("%s is %q; paths have to lie below %s", [name, path, concat(" or ", roots)])
}

below_a_root(path) if {
	is_string(path)
	some root in roots
	startswith(concat("", [path, "/"]), concat("", [root, "/"]))
	not ".." in split(path, "/")
}
