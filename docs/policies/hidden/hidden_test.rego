package hidden_test

import data.gateway

question(risk, roles) := {"resource": {"type": "tool", "risk": risk}, "subject": {"roles": roles}}

test_external_tools_are_hidden if gateway.visible == false with input as question("external", ["reader"])

test_payers_see_them if not gateway.visible == false with input as question("external", ["payer"])

test_other_tools_are_seen if not gateway.visible == false with input as question("write", ["reader"])
