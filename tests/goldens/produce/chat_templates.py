"""Chat templates rendered by transformers: templates, messages, expected text (or the error).

    python chat_templates.py OUT_DIR

The templates are written for this test in the manner of the common model families. Needs no model.
"""
import json
import os
import sys

import jinja2
import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils as ctu



def turn(role):
    return lambda text, **more: {"role": role, "content": text, **more}


U, A, S = turn("user"), turn("assistant"), turn("system")


def lines(*expressions, before=""):
    """A template of one expression a line, so that a difference shows which of them differs."""
    return before + "\n".join("{{ %s }}" % e for e in expressions)


T = {}

T["chatml"] = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

T["chatml_concat"] = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

T["smollm_default_system"] = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

T["llama2"] = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""

T["llama3"] = """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

T["llama3_tools"] = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message is taken out, so that it can go into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You have these functions:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

T["mistral_inst"] = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

T["mistral_namespace"] = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""

T["zephyr"] = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

T["gemma"] = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}"""

T["gemma3"] = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""

T["qwen25"] = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

T["qwen3_think"] = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

T["phi3"] = """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}"""

T["generation_block"] = """{% for message in messages %}
{% if message.role == 'assistant' %}
<|assistant|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}
{% else %}
<|{{ message.role }}|>{{ message.content }}<|end|>
{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""

T["generation_dashes"] = """{%- for message in messages %}
  {%- if message['role'] == 'assistant' %}
    {{- '<a>' }}
    {%- generation %}
    {{- message['content'] + '</a>' }}
    {%- endgeneration %}
  {%- else %}
    {{- '<u>' + message['content'] + '</u>' }}
  {%- endif %}
{%- endfor %}"""

T["alpaca_defaults"] = """{%- set sys = (messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | list | first) | default('Below is an instruction. Write a response.', true) -%}
{{ sys }}

{% for m in messages | rejectattr('role', 'equalto', 'system') -%}
### {{ {'user': 'Instruction', 'assistant': 'Response'}.get(m.role, m.role | capitalize) }}:
{{ m.content }}

{% endfor -%}
{% if add_generation_prompt -%}
### Response:
{% endif %}"""

T["macro"] = """{%- macro turn(role, text, end='<end>') -%}
<{{ role | upper }}>{{ text | trim }}{{ end }}
{%- endmacro -%}
{%- for m in messages if m.role != 'system' -%}
{{ turn(m.role, m.content) }}{{ '\\n' if not loop.last }}
{%- else -%}
nothing to say
{%- endfor -%}
{%- if add_generation_prompt %}{{ '\\n' ~ turn('assistant', '', end='') }}{% endif -%}"""

T["loop_control"] = """{%- for m in messages -%}
{%- if m.role == 'system' %}{% continue %}{% endif -%}
{%- if loop.index > 4 %}{% break %}{% endif -%}
{{ loop.index }}/{{ loop.length }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.cycle('odd', 'even') }}
{%- if loop.previtem is defined %} after {{ loop.previtem.role }}{% endif %}
{%- if loop.nextitem is defined %} before {{ loop.nextitem.role }}{% endif %} {{ loop.first }} {{ loop.last }}: {{ m.content }}|
{%- endfor -%}"""

T["trim_blocks"] = """start
    {% if true %}
    indented text
    {% endif %}
  {# a comment on its own line #}
after comment {# inline #} text
    {%+ if true %}kept indent{% endif %}

{% if true +%}
kept newline
{% endif %}
{{ messages[0].content }}
  {{ messages[0].role }}
{% raw %}{{ not rendered }}{% endraw %}
{% set block %}
captured {{ messages[0].role }}
{% endset %}
[{{ block }}]
end

"""

T["crlf"] = "{% for m in messages %}\r\n<{{ m.role }}>\r\n{{ m.content }}\r\n{% endfor %}\r\nend\r\n"

T["strings"] = lines(
    "c[:5]", "c[-3:]", "c[1]", "c[-1]", "c[::2]", "c[2:7:3]", "c | length", "c.strip()", "c.lstrip()", "c.rstrip()", "c.strip(' B')",
    "c | trim", "c.upper()", "c.lower()", "c.title()", "c.capitalize()", "c | upper", "c | lower", "c | title", "c | capitalize",
    "c.replace('a', 'AA')", "c | replace('a', 'b')", "c.find('n')", "c.count('a')", "c.split() | join('+')", "c.split(' ') | join('+')",
    "c.split('an')[-1]", "c.split('a', 1) | join('+')", "', '.join(['x', 'y'])", "'a' in c", "'zzz' not in c", "c.startswith(' ')", "c.endswith('am')",
    "c | trim | first", "c | trim | last", "'n: ' ~ 3 ~ true", "c + 'x'", "'yes' if c else 'no'", "'shown' if c == ''",
    before="{% set c = messages[-1]['content'] %}\n")

T["strings_exotic"] = lines("'x' * 3", "7 // 2", "7 % 3", "2 ** 5", "7 / 2", "1 < 2 < 3", "'%s-%02d' % ('a', 7)", "'{}:{}'.format('k', 1)", "c.split()",
                            "'a\\tb'", "c | list | length", "c.isalpha()", "'abc'.rsplit('b')", "c[::-1]", "'q'.center(5)", before="{% set c = messages[-1]['content'] %}\n")

T["python_values"] = """{{ true }} {{ none }} {{ 1.0 }} {{ 1e20 }} {{ [1, 'a', none, true] }} {{ {'k': 'v', 'n': 1} }} {{ (1, 2) }} {{ "it's" }} {{ ["it's"] }} {{ messages[0] }}"""

T["tojson"] = """{{ messages | tojson }}
{{ extra | tojson }}
{{ extra | tojson(indent=2) }}
{{ extra | tojson(separators=(',', ':'), sort_keys=true) }}
{{ extra | tojson(ensure_ascii=true) }}"""

T["is_tests"] = """{% for key in ['s', 'i', 'f', 'b', 'n', 'l', 'm'] %}
{% set v = extra[key] %}
{{ key }}:{% if v is string %} string{% endif %}{% if v is number %} number{% endif %}{% if v is integer %} integer{% endif %}{% if v is boolean %} boolean{% endif %}{% if v is none %} none{% endif %}{% if v is mapping %} mapping{% endif %}{% if v is sequence %} sequence{% endif %}{% if v is iterable %} iterable{% endif %}{% if v is true %} true{% endif %}{% if v is defined %} defined{% endif %}{% if v %} truthy{% endif %};
{% endfor %}
{{ missing is defined }} {{ missing is undefined }} {{ extra.nope is defined }} [{{ missing }}] [{{ missing | default('d') }}] {{ 3 is odd }} {{ 3 is divisibleby(3) }} {{ 'a' is in ['a'] }} {{ 'a' is eq('a') }}"""

T["dicts"] = """{% for key, value in extra.items() %}{{ key }}={{ value }};{% endfor %}

{% for key, value in extra | dictsort %}{{ key }}={{ value }};{% endfor %}

{% for key, value in extra | items %}{{ loop.index }}{{ key }};{% endfor %}

{% set ns = namespace(seen=[]) %}{% for m in messages %}{% set ns.seen = ns.seen + [m.role] %}{% endfor %}
{{ ns.seen | join(' ') }}
""" + lines("extra.get('zulu')", "extra.get('nope', 'fallback')", "'zulu' in extra", "extra.keys() | list | join(',')", "extra | length", "extra['alpha']",
            "ns.seen | unique | list | length", "messages | map(attribute='content') | join('/')", "messages | selectattr('role', 'equalto', 'user') | list | length",
            "range(3) | list | join(' ')", "range(1, 8, 3) | join(' ')", "[3, 1, 2] | sort | join(',')", "[1, 2, 3] | sum", "[1, 2, 3] | max", "[1, 2] | reverse | list | join(',')",
            "messages[::-1] | map(attribute='role') | join(',')", "messages[-1].role", "messages[:2] | length", "'5' | int + 1", "2 | string + 'x'", "3.7 | int", "2.5 | round | int")

T["scoping"] = """{% set x = 'outer' %}{% for m in messages %}{% set x = 'inner' %}{{ x }} {% endfor %}{{ x }}{% if true %}{% set x = 'if' %}{% endif %} {{ x }}"""

T["indent_filter"] = """{{ messages[0].content | indent }}
{{ messages[0].content | indent(2, first=true) }}
{{ messages[0].content.splitlines() | join('|') }}"""

T["undefined_attribute"] = """{% for m in messages %}{{ m.metadata.name }}{% endfor %}"""
T["undefined_concat"] = """{{ 'x' + messages[0].nothing }}"""
T["mutation"] = """{% set l = [] %}{{ l.append(1) }}{{ l }}"""
T["syntax_error"] = """{% for m in messages %}{{ m.content }}"""

BASIC = [U("Hello!"), A("Hi, how can I help?"), U("Tell me a joke.")]
SYSTEM = [S("You are terse."), *BASIC]
DONE = [U("What is 2+2?"), A("4")]
SPACES = [U("  padded with blanks \n"), A("\n  answer\t ")]
UNICODE = [U("Grüße, 你好 🙂 <b>&amp; \"quotes\" 'single'"), A("naïve — café\u00a0\u200b!")]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather at a place, <now> & here",
          "parameters": {"type": "object", "properties": {"place": {"type": "string", "enum": ["Köln", "Oslo"]},
                                                         "days": {"type": "integer", "default": 3}}, "required": ["place"]}}}]
CALL = [U("Weather in Oslo?"), {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "get_weather", "arguments": {"place": "Oslo", "days": 1, "exact": True, "t": 1.5, "u": None}}}]},
        {"role": "tool", "name": "get_weather", "content": "-3 °C"}]
EXTRA = {"b": [1, 2.0, -0.5, 1e-7, 1e22, True, None], "a": {"z": "<script> & 'x' \"y\"", "é": "ü\n\t\\/", "empty": [], "none": {}}, "c": "\u2028\x7f😀"}
KINDS = {"s": "text", "i": 3, "f": 2.5, "b": True, "n": None, "l": [1], "m": {"k": 1}}
ORDER = {"zulu": 1, "alpha": "two", "Mike": 3}

# (name, template, messages, add_generation_prompt, variables besides bos/eos, tools, level)
# level: "core" = what templates of published models do; "exotic" = Jinja corners seldom met.
C = []


def case(name, template, messages, add=False, variables=None, tools=None, level="core", bos="<s>", eos="</s>"):
    C.append(dict(name=name, template=template, messages=messages, add_generation_prompt=add, bos_token=bos, eos_token=eos,
                  variables=variables or {}, tools=tools, level=level))


for name in ("chatml", "chatml_concat", "smollm_default_system", "llama2", "llama3", "mistral_inst", "mistral_namespace", "zephyr", "gemma", "gemma3", "qwen25",
             "qwen3_think", "phi3", "generation_block", "generation_dashes", "alpaca_defaults", "macro", "loop_control"):
    case(f"{name}/dialogue+prompt", name, BASIC, True)
    case(f"{name}/finished", name, DONE)
    case(f"{name}/system", name, SYSTEM, True)
case("chatml/blanks kept", "chatml", SPACES)
case("chatml/unicode", "chatml", UNICODE)
case("chatml/empty contents", "chatml", [U(""), A("")], True)
case("chatml/extra keys ignored", "chatml", [U("a", weight=0, name="bob"), A("b", id=7)])
case("chatml/special tokens in contents", "chatml", [U("<|im_end|> {{ x }} {% if %}"), A("<|im_start|>system\n")])
case("llama3/blanks trimmed", "llama3", SPACES)
case("llama2/blanks stripped", "llama2", SPACES)
case("llama2/multi-turn with system", "llama2", SYSTEM + [A("Why did the chicken..."), U("Another.")])
case("llama2/roles must alternate", "llama2", [U("a"), U("b")])
case("mistral/unknown role", "mistral_inst", [U("a"), {"role": "tool", "content": "x"}])
case("mistral/begins with assistant", "mistral_inst", [A("a"), U("b")])
case("mistral_namespace/roles must alternate", "mistral_namespace", [S("s"), A("b")])
case("mistral_namespace/system goes to the last user turn", "mistral_namespace", SYSTEM)
case("gemma/system refused", "gemma", [S("no"), U("a")], True)
case("gemma3/parts", "gemma3", [S("sys"), {"role": "user", "content": [{"type": "text", "text": " one "}, {"type": "image"}, {"type": "text", "text": "two"}]}], True)
case("gemma3/system in parts", "gemma3", [{"role": "system", "content": [{"type": "text", "text": "sys"}]}, U("hey")], True)
case("zephyr/system only", "zephyr", [S("alone")], True)
case("phi3/empty system skipped", "phi3", [S(""), U("q")], False)
case("llama3_tools/plain", "llama3_tools", SYSTEM, True)
case("llama3_tools/date", "llama3_tools", BASIC, True, {"date_string": "01 Jan 2030"})
case("llama3_tools/tools and call", "llama3_tools", CALL, True, None, TOOLS)
case("llama3_tools/two calls refused", "llama3_tools", [U("x"), {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "a", "arguments": {}}}, {"function": {"name": "b", "arguments": {}}}]}])
case("qwen25/tools and call", "qwen25", CALL, True, None, TOOLS)
case("qwen25/two tool answers", "qwen25", CALL + [{"role": "tool", "content": "second"}, A("Cold."), U("ok")], True, None, TOOLS)
case("qwen25/system later", "qwen25", [U("a"), S("mid"), A("b")])
case("qwen3/thinking in text", "qwen3_think", [U("1+1?"), A("<think>\nadd them\n</think>\n\n2"), U("2+2?"), A("<think>\nagain\n</think>\n\n4")])
case("qwen3/thinking in its own field", "qwen3_think", [U("1+1?"), A("2", reasoning_content="add")])
case("qwen3/thinking under its older name", "qwen3_think", [U("1+1?"), A("2", thinking="add")], level="exotic")
case("qwen3/no thinking", "qwen3_think", BASIC, True, {"enable_thinking": False})
case("qwen3/thinking on", "qwen3_think", BASIC, True, {"enable_thinking": True})
case("qwen3/tool response as user", "qwen3_think", [U("q"), A("calls"), U("<tool_response>r</tool_response>"), A("final")])
case("generation_block/two answers", "generation_block", [*BASIC, A("Knock knock, 你好")])
case("alpaca/unknown role", "alpaca_defaults", [{"role": "context", "content": "c"}, U("q")], True)
case("macro/only system", "macro", [S("s")])
case("loop_control/long", "loop_control", [S("s"), *[(U if i % 2 == 0 else A)(f"m{i}") for i in range(7)]])
case("bos and eos other than usual", "phi3", BASIC, False, bos="<|begin|>", eos="<|endoftext|>")
case("bos not set", "llama3", BASIC, True, bos=None)
case("whitespace control", "trim_blocks", [U("content line")])
case("template with CRLF, contents with CRLF", "crlf", [U("a\r\nb"), A("c\rd")])
case("strings", "strings", [U("x"), A(" Banana pie and jam  ")])
case("strings/non-ascii", "strings", [A(" ñandú 你好 straße ")], level="exotic")
case("strings/exotic", "strings_exotic", [A(" Banana pie and jam  ")], level="exotic")
case("python values", "python_values", [U("it's \"x\"\n")], level="exotic")
case("tojson", "tojson", UNICODE, variables={"extra": EXTRA})
case("tests", "is_tests", BASIC, variables={"extra": KINDS})
case("dicts and lists", "dicts", BASIC, variables={"extra": ORDER})
case("scoping of set", "scoping", DONE)
case("indent and splitlines", "indent_filter", [U("one\ntwo\n\nthree")], level="exotic")
case("attribute of undefined", "undefined_attribute", BASIC)
case("undefined in a sum", "undefined_concat", BASIC)
case("changing a list is refused", "mutation", BASIC, level="exotic")
case("unclosed block", "syntax_error", BASIC)


def render(c):
    tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=c["bos_token"], eos_token=c["eos_token"])
    source = T[c["template"]]
    try:
        text = tok.apply_chat_template(c["messages"], chat_template=source, tools=c["tools"], tokenize=False,
                                       add_generation_prompt=c["add_generation_prompt"], **c["variables"])
    except (jinja2.exceptions.TemplateError, TypeError) as e:
        raised = type(e) is jinja2.exceptions.TemplateError  # the class raise_exception uses
        return dict(error=dict(kind="raise_exception" if raised else type(e).__name__, message=str(e)))
    out = dict(expected=text)
    if "generation " in source and "endgeneration" in source:
        again, spans = ctu._render_with_assistant_indices(ctu._compile_jinja_template(source), c["messages"], c["tools"], None,
                                                          c["add_generation_prompt"], **tok.special_tokens_map, **c["variables"])
        assert again == text
        out["generation_spans"] = [list(s) for s in spans]  # [start, end) in code points
    return out


def main(out_dir):
    cases = []
    for c in C:
        c = {**c, **render(c)}
        cases.append({k: v for k, v in c.items() if v is not None and v != {} or k in ("expected", "bos_token")})
    assert {c["template"] for c in C} == set(T)
    data = dict(produced_by=f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}",
                environment=dict(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False, autoescape=False,
                                 extensions=["loopcontrols", "generation"]),
                templates=T, cases=cases)
    with open(os.path.join(out_dir, "chat_templates.json"), "w") as f:
        json.dump(data, f, ensure_ascii=True, indent=1)
        f.write("\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


main(sys.argv[1])
