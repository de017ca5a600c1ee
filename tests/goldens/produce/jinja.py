"""What transformers' Jinja renders of single expressions and statements, for one row of data.

    python jinja.py OUT_DIR

Needs transformers and Jinja2, no model. Each case is a template; `expected` is its text, `error` the class of Python's error.
"""
import json
import os
import sys

import jinja2
import transformers
from transformers.utils import chat_template_utils as ctu

# The row is kept as text, because the spelling of its numbers is part of the test.
ROW = r'''{"n": null, "t": true, "f": false, "i": 7, "neg": -7, "zero": 0, "big": 12345678901234567890123,
"huge": 123456789012345678901234567890123456789012345, "u64": 18446744073709551615, "i64": -9223372036854775808,
"tiny": 1e-07, "e20": 1e+20, "two": 2.0, "half": 0.5, "negzero": -0.0, "tenth": 0.1, "e16": 1e16, "e15": 1e15, "m4": 1e-4, "m5": 0.00001, "pi": 3.14159265358979,
"s": "it's", "q": "say \"hi\"", "both": "it's \"x\"", "nl": "a\nb\tc\\d\u0007\u007f", "uni": "é 你好 🙂\u00a0\u200b\u2028", "empty": "", "sp": "  a b\t\nc  ",
"html": "<b>&\"'</b>", "words": "hello world-foo bar's 3rd ÉCOLE", "lines": "one\ntwo\r\nthree\n\nfour\n", "num": "42", "fnum": " 3.5 ",
"l": [1, 2.0, "a", "it's", null, true, [1e-07, {"k": "v"}]], "ns": [3, 1, 2], "fs": [0.1, 1e20, 2.0], "ss": ["b", "A", "c", "a"], "none": [], "o": {},
"d": {"b": 1, "a": "x", "C": null, "items": [1, 2], "nested": {"get": 5, "z": 1e-07}},
"ms": [{"role": "user", "content": "x", "n": 3}, {"role": "assistant", "content": "y", "n": 1}, {"role": "user", "content": "z", "n": 2}]}'''

EXPRESSIONS = r'''
# values as text
n | t | f | i | neg | big | huge | u64 | i64 | tiny | e20 | two | half | negzero | tenth | e16 | e15 | m4 | m5 | pi
s | q | both | nl | uni | l | d | ns | fs | ss | none | o | ms | [s, q, both, nl, uni] | {'a': s, 1: q, 1.5: n, none: t, true: 2}
(1, 'a') | (1,) | () | [(1, 2)] | {} | 1e100 | 1.0 | 1e16 | 123456789.123 | 0.1 + 0.2 | -0.0 | 1_000 | 0x1F | 0b101 | 0o17 | 1e3 | 1.5e-7
'a' 'b' | "\x41\u00e9\n\t\\\'" | '\101' | 'it\'s' | "\N{BULLET}" | '\q'
# concatenation
n ~ t ~ tiny ~ big ~ two ~ l ~ d ~ s | 1 ~ 2 | 'a' ~ missing ~ 'b' | e20 ~ '' | (1, 2) ~ [1.0] | [s] ~ {'a': 1e-07}
'a' + s | s + 1 | 1 + s | l + ns | ns + (1,) | (1,) + (2,) | s + n | 'a' + missing | missing + 'a' | d + d
# numbers
1 + 2 | 1 + 2.0 | t + 1 | 7 / 2 | 6 / 2 | 7 // 2 | neg // 2 | neg % 3 | 7 % -3 | -7 // 2.0 | 7.5 % 2 | -7.5 // 2 | 1 / 0 | 1 // 0 | 1 % 0 | 2 ** 10 | 2 ** -1 | 2.0 ** 3 | 2 ** 0.5 | (-8) ** 2 | -2 ** 2 | 2 ** 3 ** 2 | -7 % 3
big + 1 | big * 2 | big - big | 2 ** 64 | 2 ** 127 | huge == huge | huge > 1 | big > e20 | huge + 0 | u64 + 1 | i64 - 1 | -i64 | big // 7 | big % 7 | huge | huge is integer | huge | string | [huge] | huge ~ '' | huge | tojson | -huge
10 * 'ab' | 'ab' * 3 | ns * 2 | 'ab' * -1 | 'ab' * 1.0 | (1,) * 2 | +3 | +s | -s | -t | 1 - 't' | i - half | not i | not none | 3 * t | 1e308 * 10 | -1e308 * 10 | (1e308 * 10) - (1e308 * 10) | [1e308 * 10]
# comparison and logic
1 == 1.0 | t == 1 | 'a' == 'a' | ns == [3, 1, 2] | (1, 2) == [1, 2] | d == d | n == none | missing == none | missing == missing | 1 == '1' | o == {} | {'a': 1, 'b': 2} == {'b': 2, 'a': 1}
1 < 2 | 1 < 'a' | 'a' < 'b' | 'B' < 'a' | n < 1 | [1, 2] < [1, 3] | [1] < [1, 0] | (1, 2) < (1, 3) | [1] < (2,) | d < d | missing < 1 | 1 < 2 < 3 | 1 < 3 < 2 | 1 != 2 | t < 2 | 1 <= 1.0 | 3 >= 4 | n == 1 or 5 | 0 or '' or [] or 'z' | 1 and 0 and 2 | not 1 == 2 | i > half
1 in ns | 'a' in s | 's' in s | 'b' in d | 1 in d | 1.0 in ns | t in [1] | 1 in s | n in l | 1 not in ns | 'x' in missing | [1] in [[1]] | 'a' in ('a', 'b') | 2 in 5 | s in [s] | [1] in d | not 1 in ns | 1 in range(3)
'yes' if t | 'yes' if f | 'yes' if f else 'no' | ('a' if f else 'b') ~ 'c' | (f if f) is defined | 1 if t else 1/0
# subscripts
s[0] | s[-1] | s[9] | s[0:2] | s[::-1] | s[-2:] | s[:-1] | s[::2] | s[3:1] | s[10:] | uni[2] | uni[2:4] | ns[0] | ns[-1] | ns[5] | ns[1:] | ns[::-1] | ns[-5:2] | ns[::-2] | ns[2:0:-1] | ns[::0] | (1, 2, 3)[1:] | (1, 2, 3)[0] | ns['a'] | ns[t] | ns[1.0] | s['upper'] | s[n:2]
d['b'] | d.b | d.missing | d.missing.more | d['missing'] | d['items'] | d.items | d.nested.get | d['nested']['get'] | d.keys() | d.values() | d.items() | d.keys() | list | d[1] | missing | missing.x | n.x | i.x | l[6][1].k | d[ns] | {1: 'a'}[1] | {1: 'a'}[1.0] | {1: 'a'}[t] | ms[0].role | ms.0.role | ms[-1]['content'] | l.0 | d.nested.z | none.x | 'abc'.upper | 'abc'.nope | ns.nope | ns.append
# methods of strings
s.upper() | words.lower() | words.title() | words.capitalize() | words.swapcase() | words.casefold() | sp.strip() | sp.lstrip() | sp.rstrip() | sp.strip(' a') | words.split() | words.split(' ', 1) | words.split('o') | words.rsplit(' ', 1) | words.rsplit() | sp.split() | sp.split(' ') | sp.split(none, 1) | 'a,b'.split(sep=',') | 'abc'.split('')
lines.splitlines() | lines.splitlines(true) | 'a'.join(ss) | ','.join(ns) | '-'.join('abc') | ', '.join(d) | words.replace('o', '0') | words.replace('o', '0', 1) | 'aaa'.replace('', '-') | words.find('o') | words.find('o', 5) | words.find('zz') | words.rfind('o') | words.index('w') | words.index('zz') | words.rindex('o') | words.count('o') | 'aaaa'.count('aa') | 'abc'.count('') | uni.find('好') | uni.index('好')
words.startswith('hello') | words.startswith(('x', 'he')) | words.endswith('COLE') | words.endswith(('a', 'E')) | words.startswith('world', 6) | words.removeprefix('hello ') | words.removesuffix('ÉCOLE') | words.removeprefix('zz') | 'a=b=c'.partition('=') | 'a=b=c'.rpartition('=') | 'abc'.partition('z') | 'ab'.center(7, '*') | 'ab'.ljust(5) ~ '|' | 'ab'.rjust(5, '0') | '-42'.zfill(6) | 'a\tb'.expandtabs(4) | 'abc'.center(6) | 'abcd'.center(7)
'abc'.isalpha() | 'ab1'.isalnum() | '123'.isdigit() | '１２'.isdigit() | '½'.isnumeric() | '½'.isdigit() | '12'.isdecimal() | ' '.isspace() | ''.isspace() | 'Ab'.islower() | 'ab1'.islower() | 'AB'.isupper() | 'Hello World'.istitle() | 'abc'.isascii() | uni.isascii() | 'abc'.isidentifier() | 'a b'.isprintable() | 'x'.encode() | 'ab'.translate({97: 'z'}) | ''.isalpha() | 'ß'.upper() | 'ﬁ'.title() | 'ΑΣ'.lower()
'{} {}'.format(1, 'a') | '{1} {0}'.format(1, 'a') | '{a}'.format(a=two) | '{:>5}|{:<5}|{:^5}'.format(1, 'a', 'b') | '{:.2f}'.format(pi) | '{:05d}'.format(42) | '{:,}'.format(1234567) | '{!r}'.format(s) | '{{}}'.format() | '{}'.format(l) | '{:x}'.format(255) | '{:.3}'.format('abcdef') | '{0[0]}'.format(ns) | '{a.b}'.format(a=d) | '{:e}'.format(12345.678) | '{:g}'.format(1e-7) | '{:%}'.format(0.25) | '{:+d}'.format(3) | '{}'.format(tiny) | '{}'.format(t) | '{:>{}}'.format('a', 4) | '{:_<6}'.format('a') | '{}'.format() | '{:d}'.format('a')
'%s' % s | '%s and %s' % (s, 1) | '%d' % 3 | '%d' % 3.7 | '%05.2f' % pi | '%x %X %o' % (255, 255, 8) | '%r' % s | '%s' % l | '%s' % (l,) | '%%' % () | '%(b)s' % d | '%-5s|' % 'a' | '%5s|' % 'a' | '%+d' % 3 | '%e' % 1234.5 | '%g' % 1e-07 | '%g' % 100000 | '%g' % 1e6 | '%c' % 65 | '%s' % tiny | '%s %s' % (1,) | '%s' % (1, 2) | '%d' % 'a' | '%.3s' % 'abcdef' | '%s' % missing | '%5.1f|' % 2.25 | '%i' % t | '%s' % n | '%a' % uni | '%z' % 1 | '%#x' % 255 | '% d' % 5 | '%*d' % (5, 3)
# methods of dicts, lists, numbers
d.get('b') | d.get('zz') | d.get('zz', 5) | d.get('C', 5) | d.pop('b') | d.update({}) | d.copy() == d | ns.index(1) | ns.index(9) | ns.count(1) | ns.append(1) | ns.pop() | ns.sort() | ns.copy() | (1, 2).index(2) | (1, 1).count(1) | i.bit_length() | two.is_integer() | half.as_integer_ratio() | i.real | d.items() | length | d.keys() | length | 'b' in d.keys() | 1 in d.values() | d.nested.items() | d.setdefault('q', 1) | d.fromkeys(['a']) | i.conjugate() | tiny.hex()
# filters
neg|abs | tiny|abs | s|abs | ns|batch(2)|list | ns|batch(2, 'x')|list | ns|slice(2)|list | ns|slice(2, 0)|list | words|capitalize | s|capitalize | s|center(10) | missing|default('x') | n|default('x') | n|default('x', true) | ''|d('x', true) | missing|default | d|dictsort | d|dictsort(true) | d|dictsort(reverse=true) | {'b': 1, 'a': 2}|dictsort(by='value') | d|dictsort(false, 'value')
html|escape | html|e | html|forceescape | html|safe | (html|safe) ~ '<' | (html|escape) + '<' | html|safe|escape | (html|safe)|upper | '%s' % (html|escape) | html|striptags | 1234567|filesizeformat | 1234567|filesizeformat(true) | 1|filesizeformat | 999|filesizeformat | 0|filesizeformat | ns|first | ns|last | s|first | none|first | d|first | none|last | ''|first | num|float | fnum|float | s|float | s|float(1.5) | i|float | n|float | big|float | 'inf'|float | 'nan'|float | '1e3'|float | '1_0'|float
'%s-%s'|format(1, s) | '%(a)s'|format(a=1) | 'x'|format | '%s'|format(tiny) | ms|groupby('role')|list | ms|groupby('role') | ms|groupby('missing') | ms|groupby('missing', default='q')|list | lines|indent | lines|indent(2) | lines|indent(2, true) | lines|indent(2, false, true) | lines|indent('> ', first=true, blank=true) | lines|indent(width=3) | 'a'|indent | '\n'|indent(2, true)
num|int | fnum|int | '3.7'|int | s|int | s|int(5) | '0x1f'|int(0, 16) | '1f'|int(base=16) | tiny|int | two|int | 3.99|int | -3.99|int | n|int | t|int | e20|int | '1e2'|int | ''|int | 'inf'|float|int | '12345678901234567890123'|int | huge|int | d|items|list | missing|items|list | ns|items | d|items | ns|join | ns|join(', ') | l|join('-') | fs|join(' ') | ms|join(',', attribute='role') | ms|join(',', 'content') | s|join('.') | d|join(',') | none|join | missing|join | n|join | 5|join
ns|last | ns|length | s|length | uni|length | d|length | i|length | missing|length | n|count | (1,2)|count | ss|list | s|list | d|list | missing|list | n|list | 'ABC'|lower | 5|lower | n|lower | t|upper | ns|map('string')|list | ms|map(attribute='role')|list | ms|map(attribute='missing', default='x')|list | ms|map(attribute='missing')|list | ms|map('length')|list | ss|map('upper')|join | ss|map('replace', 'a', 'z')|list | ms|map(attribute='content.0')|list | ns|map('nope')|list | ms|map(attribute='n')|sum | ns|map | ns|map('string') | ms|map('tojson')|join
ns|max | ns|min | ss|max | ss|min | ss|max(true) | ms|max(attribute='n') | none|max | d|max | fs|max | ns|pprint | d|pprint | ns|random is in(ns) | ns|reject('odd')|list | ns|reject|list | ms|rejectattr('role', 'eq', 'user')|list|length | ms|rejectattr('missing')|list|length | s|replace('t', 'T') | 'aaa'|replace('a', 'b', 2) | 5|replace('5', '6') | ns|reverse|list | s|reverse | ns|reverse | d|reverse|list | 5|reverse
pi|round | pi|round(2) | 2.5|round | 3.5|round | -2.5|round | pi|round(1, 'ceil') | pi|round(1, 'floor') | 42|round | 42.55|round(1) | 1234|round(-2) | 2.675|round(2) | pi|round(method='ceil') | pi|round(0, 'x') | i|round(1) | e20|round | i|round(2, 'floor') | s|round | 0.5|round | 1.005|round(2) | t|round
[0, 1, '', 'a', n]|select|list | ns|select('odd')|list | ns|select('gt', 1)|list | ns|select('in', [1, 2])|list | ms|selectattr('role', 'equalto', 'user')|map(attribute='n')|list | ms|selectattr('n', '>', 1)|list|length | ms|selectattr('missing')|list | ms|selectattr('missing', 'undefined')|list|length | ms|selectattr('role', 'in', ['user'])|list|length | ms|selectattr('n')|list|length | ns|select('nope')|list | ms|selectattr('role')
ns|sort | ss|sort | ss|sort(case_sensitive=true) | ns|sort(reverse=true) | ns|sort(true) | ms|sort(attribute='n')|map(attribute='n')|list | ms|sort(attribute='role,n')|map(attribute='n')|list | [1, 'a']|sort | [n, 1]|sort | d|sort | [1, 2.5, t]|sort | [[2, 1], [1, 2]]|sort | ms|sort | 'hello'|sort|join
tiny|string | n|string | l|string | s|string | ns|string|length | [1,2]|sum | fs|sum | ss|sum | ms|sum(attribute='n') | ns|sum(start=10) | ns|sum('n') | none|sum | words|title | 'foo_bar (baz) [q]x'|title | 5|title | ' x '|trim | '--x-'|trim('-') | 5|trim | n|trim | sp|trim
l|tojson | d|tojson | d|tojson(indent=2) | d|tojson(sort_keys=true) | [tiny, e20, two, big, huge, u64, negzero]|tojson | nl|tojson | uni|tojson | uni|tojson(ensure_ascii=true) | html|tojson | (1, 2)|tojson | {1: 2, none: 3, true: 4, 1.5: 5}|tojson | missing|tojson | [1, 2]|tojson(separators=(',', ':')) | [1, 2]|tojson(2) | [[], {}, [1]]|tojson(indent=4) | d|tojson(indent='--') | [1]|tojson(indent=0) | range(3)|tojson | (1e308*10)|tojson | d.items()|tojson | {'b': 1, 'a': 2}|tojson(sort_keys=true) | {2: 1, 'a': 2}|tojson(sort_keys=true) | ns|tojson(false) | ns|tojson(true, 1) | nope|tojson | s|tojson|length | (html|tojson) + '<'
words|truncate(10) | words|truncate(10, true) | words|truncate(10, false, '…') | words|truncate(10, true, '', 0) | 'short'|truncate(5) | 'abcdefghij'|truncate(9, leeway=0) | ss|unique|list | ns|unique | ['a', 'A']|unique(true)|list | ms|unique(attribute='role')|map(attribute='n')|list | 'abc'|upper | 'a b&c/é?'|urlencode | {'a b': 'c&d', 'n': 1}|urlencode | [['a', 1]]|urlencode | words|wordcount | 'a-b c'|wordcount | words|wordwrap(10) | 'http://a.b'|urlize | {'class': 'a', 'id': none, 'x': '<'}|xmlattr | {}|xmlattr | ns|nope | s|attr('upper') | d|attr('b') | missing|upper
# tests
i is odd | i is even | i is divisibleby(7) | i is divisibleby 7 | s is string | i is number | t is number | two is number | two is float | i is float | i is integer | t is integer | t is boolean | n is none | missing is defined | missing is undefined | i is defined | ns is sequence | d is sequence | s is sequence | i is sequence | d is mapping | ns is mapping | ns is iterable | s is iterable | n is iterable | missing is iterable | i is iterable | range(3) is iterable | range is callable | s is callable | i is sameas i | t is true | f is false | 1 is true | 'a' is lower | 'A' is upper | 'a1' is lower | 1 is eq 1 | 1 is equalto(1) | 1 is ne 2 | 1 is lt 2 | 2 is ge(2) | 1 is in [1] | 'upper' is filter | 'nope' is filter | 'odd' is test | html is escaped | (html|safe) is escaped | i is not odd | i is not none and t | i is nope | missing is none | n is sameas none | s is not string | 3 is greaterthan(2) | 'a' is odd | 2 is even is true | 1 is number == true
# globals
range(3) | range(3)|list | range(1, 7, 2)|list | range(5, 0, -2)|list | range(0) | range(3)[1] | range(3)|length | range(3)[::-1]|list | range('a') | range(1, 5)|sum | dict(a=1, b=s) | dict([('a', 1)]) | dict({'x': 1}, y=2) | dict(d) == d | namespace(a=1).a | namespace(a=1).b | namespace({'a': 5}).a | namespace(a=1) is mapping | cycler('a', 'b').next() | joiner(', ')() ~ 'x' | joiner() | raise_exception('no') | raise_exception() | nope(1) | nope() | s() | strftime_now('%Y') is string | strftime_now('%d %b %Y')|length | dict.fromkeys(['a']) | loop | self | caller | varargs | zip([1], [2]) | len(ns) | str(1) | super() | now() | ns.__class__ | s.__len__() | d.__class__
# calls
dict(**{'a': 1}) | '{} {}'.format(*ns[:2]) | range(*[1, 3])|list | s.upper(1) | s.replace('a') | s|upper(1) | d.get() | s.strip(1) | ns|join(d=',') | s|replace(old='t', new='T') | s.replace(old='a', new='b') | ns|batch | 'x'.join(n)
# values that do not fit
e16 // -3.5 | d.keys() in d | d.keys() == d.keys() | d.items() == {}.items() | d.keys() < d.items() | n|indent | 5|truncate(3) | n|map('upper')|list | f|select|list | n[1:] | d[:1] | i[::2] | tiny is odd | missing|int | missing|float | 'inf'|int | s|filesizeformat | 'ab' % range(3) | '{:>{}}|{:{}}'.format('a', 4, 'b', 3)
# precedence and syntax
1 + 2 * 3 | (1 + 2) * 3 | 1 ~ 2 + 3 | 2 * 3 ~ 4 | -1|abs | -(1|abs) | 2 ** -1|abs | not t and f | t or f and f | 1 + 1 == 2 | 'a' ~ 'b' == 'ab' | [1, 2,] | {'a': 1,} | (1, 2,) | 1, 2 | 'a'.upper()|lower | -2|abs|string ~ 'x' | {'a': {'b': 1}}.a.b | 1 if f else 2 if f else 3 | [1 if t else 2] | not missing | t is true and f is false | 'a' in 'abc' and 'z' not in 'abc' | 1 - -1 | 1--1 | 2 - 1 - 1 | 2 / 2 / 2 | 'a' if t else 'b' if t else 'c' | 3 is odd and 4 is even | t == t == t | 1 < 2 == t | 'x' ~ 1|string | True | False | None | true | none | TRUE | 5 . real | a.b.c.d | ns[0].x.y | - 5 | i // 2 * 2 | 7 // 2 ** 2 | 10 % 4 * 2 | not not t | not (t) | (((1)))
'''

STATEMENTS = [
    # loops
    "{% for x in ns %}{{ x }}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for x in ns %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for m in ms %}{{ loop.changed(m.role) }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in none %}{{ x }}{% else %}nothing{% endfor %}", "{% for x in missing %}{{ x }}{% else %}nothing{% endfor %}", "{% for x in n %}{% endfor %}", "{% for x in 5 %}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}{{ v }};{% endfor %}",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}", "{% for a, b in ['xy'] %}{{ a }}-{{ b }}{% endfor %}",
    "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for x in ns if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}", "{% for x in ns if x > 9 %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in ns %}{% for y in ss %}{{ loop.index }}{{ y }}{% endfor %}{{ loop.index }};{% endfor %}", "{% for x in ns recursive %}{{ x }}{% endfor %}",
    "{% for x in [[1, [2, 3]], 4] recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ loop.depth }}:{{ x }}{% endif %}{% endfor %}",
    "{% for x in ns %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in ns %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}", "{% for x in 'abc' %}{{ x }}.{% endfor %}",
    "{% for x in range(3) %}{{ x }}{% endfor %}", "{% for x in ns %}{{ loop }}{% endfor %}", "{% for x in ns %}{% set y = x %}{% endfor %}{{ y }}", "{% for x in ns %}{% endfor %}{{ x }}", "{% set x = 9 %}{% for x in ns %}{% endfor %}{{ x }}",
    "{% for x in ns %}{{ loop.nope }}{% endfor %}", "{% for x in ns %}{% set loop = 3 %}{% endfor %}", "{% for x in ns|reverse %}{{ x }}{{ loop.length }}{% endfor %}", "{% for g in ms|groupby('role') %}{{ g.grouper }}:{{ g.list|length }};{% endfor %}",
    "{% for role, items in ms|groupby('role') %}{{ role }}={{ items|map(attribute='n')|join(',') }};{% endfor %}", "{% for k, v in d %}{{ k }}{% endfor %}", "{% for x in l[:3] + [9] %}{{ x }},{% endfor %}", "{% for x in ns %}{% if loop.last %}{{ x }}{% endif %}{% endfor %}",
    "{% for row in ns|batch(2, 0) %}{{ row|join(',') }};{% endfor %}", "{% for row in [1,2,3,4,5]|slice(3) %}{{ row|join(',') }};{% endfor %}", "{% for x in ns %}{% filter upper %}a{{ x }}{% endfilter %}{% endfor %}",
    "{% for x in [1, 1, 2] %}{% if loop.changed(x) %}{{ x }}{% endif %}{% endfor %}", "{% break %}", "{% for x in ns %}{% for y in ns %}{% break %}{% endfor %}{{ x }}{% endfor %}",
    # set and scopes
    "{% set x = 1 %}{{ x }}", "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set x %}a{{ i }}b{% endset %}{{ x }}{{ x|length }}", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set a = b = 1 %}", "{% set ns2 = namespace(x=1) %}{% set ns2.x = 2 %}{{ ns2.x }}",
    "{% set ns2 = namespace(x=1) %}{% for q in ns %}{% set ns2.x = ns2.x + q %}{% endfor %}{{ ns2.x }}", "{% set d.b = 2 %}", "{% set zz.b = 2 %}", "{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}", "{% set x = 1 %}{% for y in ns %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}",
    "{% with x = 1, y = 2 %}{{ x }}{{ y }}{% endwith %}{{ x }}", "{% with %}{% set x = 1 %}{{ x }}{% endwith %}{{ x }}", "{% set x = 1 %}{% with x = 2, y = x %}{{ y }}{% endwith %}", "{% set html2 %}<b>{% endset %}{{ html2 }}{{ html2|escape }}", "{% set x = [1] + [2] %}{{ x }}",
    "{% set ns2 = namespace() %}{% set ns2.a = [] %}{% set ns2.a = ns2.a + [1] %}{{ ns2.a }}", "{{ x }}{% set x = 1 %}", "{% set i = i + 1 %}{{ i }}", "{% set n = 5 %}{{ n }}", "{% set ns2 = namespace(_x=1) %}", "{% set ns2 = namespace(x=1) %}{{ ns2 }}", "{% set ns2 = namespace(x=1) %}{{ ns2['x'] }}",
    "{% set x = 'a', 'b' %}{{ x }}", "{% set x = (1, 2) %}{{ x[0] }}{{ x }}", "{% if i > 5 and s %}a{% elif f %}b{% else %}c{% endif %}", "{% if missing %}a{% elif n %}b{% elif o %}c{% else %}d{% endif %}", "{% if ns is iterable and ns is not mapping and ns is not string %}y{% endif %}", "{% do 1 %}",
    # macros and calls
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}", "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, c=2) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(a) %}{{ a }}{{ varargs|join('-') }}{% endmacro %}{{ m(1, 2, 3) }}", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{{ i }}{% endcall %}", "{% macro m() %}{{ caller('q', 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}", "{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}",
    "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(n) %}{% if n > 0 %}{{ n }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "{% macro m() %}{% set y = 1 %}{% endmacro %}{{ m() }}{{ y }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.caller }}",
    "{% for x in ns %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m() %} a {% endmacro %}{{ m()|trim }}{{ m() is string }}{{ m()|length }}", "{% macro m(a='x') %}{{ a }}{% endmacro %}{{ m(missing) }}", "{% macro m(a) -%}\n  {{ a }}\n{%- endmacro %}{{ m('z') }}", "{% call m() %}{% endcall %}", "{% macro m(x, y=1, z) %}{% endmacro %}",
    "{% macro m() %}{{ caller() if caller is defined else 'no' }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ i }}{% endmacro %}{{ m() ~ m() }}", "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro m(d) %}{{ d.b }}{% endmacro %}{{ m({'b': 9}) }}{{ d.b }}",
    # filters, raw, whitespace
    "{% filter upper %}abc {{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}banana{% endfilter %}", "{% raw %}{{ x }}{% y %}{% endraw %}", "{%- raw -%} {{ x }} {%- endraw -%} z", "a {#- c -#} b", "a {# c #} b", "  {% if t %}\n  a\n  {% endif %}\nb\n", "  {%- if t %}\n  a\n  {%- endif %}\nb\n\n", "{{- 'a' -}}  b {{ 'c' }}\n\n",
    "x\n  {# c #}\ny", "x  {%+ if t %}y{% endif +%}\nz", "{% if t -%}\n\n a {%- endif %}", "{{ '{{' }}{{ '%}' }}", "{% if t %}{{ 'a' }}\n{% endif %}\n", "\n\n{{ i }}\n", "  {{ i }}  \n  {% set x = 1 %}  \n  {{ x }}", "a\r\nb\r{% if t %}\r\nc{% endif %}", "{%if t%}a{%endif%}", "{{s}}", "{{ s -}}\n x", "{% set x = \"a\nb\" %}{{ x }}", "# not a line statement\n## nor this",
    "{% autoescape true %}{{ html }}{% endautoescape %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% block a %}x{{ i }}{% endblock %}", "{% from 'x' import y %}", "{% trans %}a{% endtrans %}", "{% debug %}", "{% generation %}a{{ i }}{% endgeneration %}", "{% generation %}{% set x = 1 %}{% endgeneration %}{{ x }}",
    "{%- generation -%}  a  {%- endgeneration -%}  b", "{% nope %}", "{% if t %}", "{{ 1 + }}", "{{ 'a }}", "{{ [1, 2 }}", "{% endif %}", "{# open", "{{ 1 2 }}", "{{ }}", "{% for %}{% endfor %}", "{{ a b }}", "{{ 'a' | }}", "{{ x..y }}", "{% set = 1 %}", "{% if %}{% endif %}", "{{ $x }}", "{% for x of ns %}{% endfor %}", "{{ {1} }}", "{% set true = 1 %}", "{{ ns[1 }}",
    # cyclers, joiners, namespaces
    "{% set c = cycler('a', 'b') %}{% for x in ns %}{{ c.next() }}{{ c.current }}{% endfor %}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner(', ') %}{% for x in ns %}{{ j() }}{{ x }}{% endfor %}", "{% set j = joiner() %}{{ j() }}a{{ j() }}b", "{% set ns2 = namespace(found=false) %}{% for x in ns %}{% if x == 1 %}{% set ns2.found = true %}{% endif %}{% endfor %}{{ ns2.found }}",
    "{% set a = {'x': 1} %}{% set _ = a.update({'y': 2}) %}{{ a }}", "{% set a = [] %}{% set _ = a.append(1) %}{{ a }}", "{% set a = [1, 2] %}{% for x in a %}{{ a.index(x) }}{% endfor %}", "{% set x = ms | selectattr('role', 'eq', 'user') | list %}{{ x[0].content }}{{ x | length }}", "{% set k = 'b' %}{{ d[k] }}", "{{ ms[0]['role'] ~ ': ' ~ ms[0]['content'] }}",
    "{% set args = {'a': tiny, 'b': [two, big]} %}{% for k, v in args.items() %}{{ k }}={{ v if v is string else v | tojson }};{% endfor %}", "{% for k, v in {'a': tiny, 'b': two, 'c': t, 'd': n}.items() %}{{ k ~ '=' ~ v }};{% endfor %}", "{% set parts = words.split('-') %}{{ parts[-1].lstrip('f') }}{{ parts|length }}",
    "{% for x in ns|sort %}{{ '%02d' % x }}{{ ', ' if not loop.last }}{% endfor %}", "{{ 'a' if missing is defined else 'b' }}{{ missing.x is defined }}", "{{ ms|map(attribute='role')|unique|join(',') }}", "{{ (ms|first).role }}{{ (ms|last)['n'] }}", "{% if 'items' in d and d['items'] %}{{ d['items'] | join }}{% endif %}", "{{ d.nested.get('z') }}",
]


def main(out_dir):
    tests = [line for line in EXPRESSIONS.splitlines() if line and not line.startswith("# ")]
    # A `|` with blanks around it parts the expressions of a line; filters are written without, except the last few lines' own.
    templates = ["{{ %s }}" % e.strip() for line in tests for e in line.split(" | ")] + STATEMENTS
    cases = []
    for template in dict.fromkeys(templates):
        case = {"template": template}
        try:
            case["expected"] = ctu._compile_jinja_template(template).render(**json.loads(ROW))
        except Exception as error:  # noqa: BLE001 - whatever Python raises is what the test expects to be refused
            case["error"] = type(error).__name__
        if " at 0x" not in case.get("expected", ""):
            cases.append(case)
    lines = ",\n".join(json.dumps(case) for case in cases)
    about = json.dumps(f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}")
    with open(os.path.join(out_dir, "jinja.json"), "w") as f:
        f.write(f'{{"produced_by": {about},\n"row": {json.dumps(ROW)},\n"cases": [\n{lines}\n]}}\n')
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


main(sys.argv[1])
