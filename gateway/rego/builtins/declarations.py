"""The builtins of OPA 1.22, their argument and result types, as its capabilities declare them.

One line a builtin: `name(types) -> type`, then flags. The types are read by :mod:`gateway.rego.types`:
`any`, `null`, `boolean`, `number`, `string`; `array[T]`; `[T, U]` (an array of fixed length); `set[T]`;
`{name: T, *K: V}` (an object with static keys, and `*K: V` for all others); `<T | U>` (one of); `void`.
A name that is declared here and not registered is known and refused at load, with another message than an unknown one.
"""

from __future__ import annotations

from typing import Final

DECLARATIONS: Final = """
abs(number) -> number
all(<array[any] | set[any]>) -> boolean #deprecated
and(set[any], set[any]) -> set[any] #infix=&
any(<array[any] | set[any]>) -> boolean #deprecated
array.concat(array[any], array[any]) -> array[any]
array.flatten(array[any]) -> array[any]
array.reverse(array[any]) -> array[any]
array.slice(array[any], number, number) -> array[any]
assign(any, any) -> boolean #infix=:=
base64.decode(string) -> string
base64.encode(string) -> string
base64.is_valid(string) -> boolean
base64url.decode(string) -> string
base64url.encode(string) -> string
base64url.encode_no_pad(string) -> string
bits.and(number, number) -> number
bits.lsh(number, number) -> number
bits.negate(number) -> number
bits.or(number, number) -> number
bits.rsh(number, number) -> number
bits.xor(number, number) -> number
cast_array(any) -> array[any] #deprecated
cast_boolean(any) -> boolean #deprecated
cast_null(any) -> null #deprecated
cast_object(any) -> {*any: any} #deprecated
cast_set(any) -> set[any] #deprecated
cast_string(any) -> string #deprecated
ceil(number) -> number
concat(string, <array[string] | set[string]>) -> string
contains(string, string) -> boolean
count(<string | array[any] | {*any: any} | set[any]>) -> number
crypto.hmac.equal(string, string) -> boolean
crypto.hmac.md5(string, string) -> string
crypto.hmac.sha1(string, string) -> string
crypto.hmac.sha256(string, string) -> string
crypto.hmac.sha512(string, string) -> string
crypto.md5(string) -> string
crypto.parse_private_keys(string) -> array[{*string: any}]
crypto.sha1(string) -> string
crypto.sha256(string) -> string
crypto.x509.parse_and_verify_certificates(string) -> [boolean, array[{*string: any}]]
crypto.x509.parse_and_verify_certificates_with_options(string, {*string: any}) -> [boolean, array[{*string: any}]]
crypto.x509.parse_certificate_request(string) -> {*string: any}
crypto.x509.parse_certificates(string) -> array[{*string: any}]
crypto.x509.parse_keypair(string, string) -> {*string: any}
crypto.x509.parse_rsa_private_key(string) -> {*string: any}
div(number, number) -> number #infix=/
endswith(string, string) -> boolean
eq(any, any) -> boolean #infix==
equal(any, any) -> boolean #infix===
floor(number) -> number
format_int(number, number) -> string
glob.match(string, <null | array[string]>, string) -> boolean
glob.quote_meta(string) -> string
graph.reachable({*any: <array[any] | set[any]>}, <array[any] | set[any]>) -> set[any]
graph.reachable_paths({*any: <array[any] | set[any]>}, <array[any] | set[any]>) -> set[array[any]]
graphql.is_valid(<string | {*any: any}>, <string | {*any: any}>) -> boolean
graphql.parse(<string | {*any: any}>, <string | {*any: any}>) -> [{*any: any}, {*any: any}]
graphql.parse_and_verify(<string | {*any: any}>, <string | {*any: any}>) -> [boolean, {*any: any}, {*any: any}]
graphql.parse_query(string) -> {*any: any}
graphql.parse_schema(string) -> {*any: any}
graphql.schema_is_valid(<string | {*any: any}>) -> boolean
gt(any, any) -> boolean #infix=>
gte(any, any) -> boolean #infix=>=
hex.decode(string) -> string
hex.encode(string) -> string
http.send({*string: any}) -> {*any: any} #nondeterministic
indexof(string, string) -> number
indexof_n(string, string) -> array[number]
internal.member_2(any, any) -> boolean #infix=in
internal.member_3(any, any, any) -> boolean #infix=in
internal.print(array[set[any]]) -> void
internal.template_string(array[any]) -> string
internal.test_case(array[any]) -> void
intersection(set[set[any]]) -> set[any]
io.jwt.decode(string) -> [{*any: any}, {*any: any}, string]
io.jwt.decode_verify(string, {*string: any}) -> [boolean, {*any: any}, {*any: any}] #nondeterministic
io.jwt.encode_sign({*string: any}, {*string: any}, {*string: any}) -> string #nondeterministic
io.jwt.encode_sign_raw(string, string, string) -> string #nondeterministic
io.jwt.verify_eddsa(string, string) -> boolean
io.jwt.verify_es256(string, string) -> boolean
io.jwt.verify_es384(string, string) -> boolean
io.jwt.verify_es512(string, string) -> boolean
io.jwt.verify_hs256(string, string) -> boolean
io.jwt.verify_hs384(string, string) -> boolean
io.jwt.verify_hs512(string, string) -> boolean
io.jwt.verify_ps256(string, string) -> boolean
io.jwt.verify_ps384(string, string) -> boolean
io.jwt.verify_ps512(string, string) -> boolean
io.jwt.verify_rs256(string, string) -> boolean
io.jwt.verify_rs384(string, string) -> boolean
io.jwt.verify_rs512(string, string) -> boolean
is_array(any) -> boolean
is_boolean(any) -> boolean
is_null(any) -> boolean
is_number(any) -> boolean
is_object(any) -> boolean
is_set(any) -> boolean
is_string(any) -> boolean
json.filter({*any: any}, <array[<string | array[any]>] | set[<string | array[any]>]>) -> {*any: any}
json.is_valid(string) -> boolean
json.marshal(any) -> string
json.marshal_with_options(any, {indent: string, prefix: string, pretty: boolean, *string: any}) -> string
json.match_schema(<string | {*any: any}>, <string | {*any: any}>) -> [boolean, array[{desc: string, error: string, field: string, type: string}]] #nondeterministic
json.patch(any, array[{op: string, path: any, *any: any}]) -> any
json.remove({*any: any}, <array[<string | array[any]>] | set[<string | array[any]>]>) -> {*any: any}
json.unmarshal(string) -> any
json.verify_schema(<string | {*any: any}>) -> [boolean, <null | string>] #nondeterministic
lower(string) -> string
lt(any, any) -> boolean #infix=<
lte(any, any) -> boolean #infix=<=
max(<array[any] | set[any]>) -> any
min(<array[any] | set[any]>) -> any
minus(<number | set[any]>, <number | set[any]>) -> <number | set[any]> #infix=-
mul(number, number) -> number #infix=*
neq(any, any) -> boolean #infix=!=
net.cidr_contains(string, string) -> boolean
net.cidr_contains_matches(<string | array[<string | array[any]>] | {*string: <string | array[any]>} | set[<string | array[any]>]>, <string | array[<string | array[any]>] | {*string: <string | array[any]>} | set[<string | array[any]>]>) -> set[[any, any]]
net.cidr_expand(string) -> set[string]
net.cidr_intersects(string, string) -> boolean
net.cidr_is_valid(string) -> boolean
net.cidr_merge(<array[<string>] | set[string]>) -> set[string]
net.cidr_overlap(string, string) -> boolean #deprecated
net.lookup_ip_addr(string) -> set[string] #nondeterministic
numbers.range(number, number) -> array[number]
numbers.range_step(number, number, number) -> array[number]
object.filter({*any: any}, <array[any] | {*any: any} | set[any]>) -> {*any: any}
object.get({*any: any}, any, any) -> any
object.keys({*any: any}) -> set[any]
object.remove({*any: any}, <array[any] | {*any: any} | set[any]>) -> {*any: any}
object.subset(<array[any] | {*any: any} | set[any]>, <array[any] | {*any: any} | set[any]>) -> boolean
object.union({*any: any}, {*any: any}) -> {*any: any}
object.union_n(array[{*any: any}]) -> {*any: any}
opa.runtime() -> {*string: any} #nondeterministic
or(set[any], set[any]) -> set[any] #infix=|
plus(number, number) -> number #infix=+
print(*any) -> void
product(<array[number] | set[number]>) -> number
providers.aws.sign_req({*string: any}, {*string: any}, number) -> {*any: any}
rand.intn(string, number) -> number #nondeterministic
re_match(string, string) -> boolean #deprecated
regex.find_all_string_submatch_n(string, string, number) -> array[array[string]]
regex.find_n(string, string, number) -> array[string]
regex.globs_match(string, string) -> boolean
regex.is_valid(string) -> boolean
regex.match(string, string) -> boolean
regex.replace(string, string, string) -> string
regex.split(string, string) -> array[string]
regex.template_match(string, string, string, string) -> boolean
rego.metadata.chain() -> array[any]
rego.metadata.rule() -> any
rego.parse_module(string, string) -> {*string: any}
rem(number, number) -> number #infix=%
replace(string, string, string) -> string
round(number) -> number
semver.compare(string, string) -> number
semver.is_valid(any) -> boolean
set_diff(set[any], set[any]) -> set[any] #deprecated
sort(<array[any] | set[any]>) -> array[any]
split(string, string) -> array[string]
sprintf(string, array[any]) -> string
startswith(string, string) -> boolean
strings.any_prefix_match(<string | array[string] | set[string]>, <string | array[string] | set[string]>) -> boolean
strings.any_suffix_match(<string | array[string] | set[string]>, <string | array[string] | set[string]>) -> boolean
strings.count(string, string) -> number
strings.render_template(string, {*string: any}) -> string
strings.replace_n({*string: string}, string) -> string
strings.reverse(string) -> string
strings.split_n(string, string, number) -> array[string]
substring(string, number, number) -> string
sum(<array[number] | set[number]>) -> number
time.add_date(number, number, number, number) -> number
time.clock(<number | [number, string]>) -> [number, number, number]
time.date(<number | [number, string]>) -> [number, number, number]
time.diff(<number | [number, string]>, <number | [number, string]>) -> [number, number, number, number, number, number]
time.format(<number | [number, string] | [number, string, string]>) -> string
time.now_ns() -> number #nondeterministic
time.parse_duration_ns(string) -> number
time.parse_ns(string, string) -> number
time.parse_rfc3339_ns(string) -> number
time.weekday(<number | [number, string]>) -> string
to_number(<null | boolean | number | string>) -> number
trace(string) -> boolean
trim(string, string) -> string
trim_left(string, string) -> string
trim_prefix(string, string) -> string
trim_right(string, string) -> string
trim_space(string) -> string
trim_suffix(string, string) -> string
type_name(any) -> string
union(set[set[any]]) -> set[any]
units.parse(string) -> number
units.parse_bytes(string) -> number
upper(string) -> string
uri.is_valid(string) -> boolean
uri.parse(string) -> {*string: string}
urlquery.decode(string) -> string
urlquery.decode_object(string) -> {*string: array[string]}
urlquery.encode(string) -> string
urlquery.encode_object({*string: <string | array[string] | set[string]>}) -> string
uuid.parse(string) -> {*string: any}
uuid.rfc4122(string) -> string #nondeterministic
walk(any) -> [array[any], any] #relation
yaml.is_valid(string) -> boolean
yaml.marshal(any) -> string
yaml.unmarshal(string) -> any
"""
