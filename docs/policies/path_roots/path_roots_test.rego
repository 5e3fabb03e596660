package path_roots_test

import data.gateway

denied(arguments) if "path_outside_root" in {d.code | some d in gateway.deny with input.arguments as arguments}

test_paths_below_a_root_pass if {
	not denied({"path": "/srv/docs/a.txt"})
	not denied({"repo_path": "/srv/repos"})
	not denied({"text": "/etc/passwd"})
}

test_other_paths_are_denied if {
	denied({"path": "/etc/passwd"})
	denied({"path": "/srv/docs2/a.txt"})
	denied({"path": "/srv/docs/../../etc/passwd"})
	denied({"path": "srv/docs"})
	denied({"source": "/srv/docs/a", "destination": "/tmp/a"})
}

test_what_is_no_path_at_all_is_denied if denied({"path": 7})
