//! From tokens to the syntax tree, with the precedence that Jinja's own parser has.

use std::sync::Arc;

use super::ast::{
    Arguments, Binary, Body, Comparison, Definition, Expr, Filter, For, Kind, Literal, Mentions, Statement,
    Target,
};
use super::error::{Error, Result, fail};
use super::lexer::{Placed, Token};

/// How deep a template may be nested. Deeper ones would overflow the stack.
const DEPTH: usize = 100;

/// How many operators, filters or subscripts may follow each other without brackets.
const CHAIN: usize = 150;

/// Statements of Jinja that chat templates do not need.
const UNSUPPORTED: [&str; 6] = ["autoescape", "block", "extends", "from", "import", "include"];

/// Parses a template.
///
/// # Errors
/// For a syntax error, or a statement that is not supported.
pub(super) fn parse(tokens: Vec<Placed>) -> Result<Body> {
    let mut parser = Parser { tokens, at: 0, depth: 0, loops: 0, macros: Vec::new() };
    let body = parser.body(&[]);
    let line = parser.tokens[parser.at].1;
    body.map(|(body, _)| body).map_err(|e| e.at(line))
}

struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
    /// Loops around the current position, within the current macro.
    loops: usize,
    /// The macros around the current position.
    macros: Vec<Mentions>,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn line(&self) -> usize {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        // The last token, `End`, is never passed.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn at_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn skip_sign(&mut self, sign: &str) -> bool {
        let there = self.at_sign(sign);
        if there {
            self.next();
        }
        there
    }

    fn at_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(n) if n == name)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let there = self.at_name(name);
        if there {
            self.next();
        }
        there
    }

    fn expect_sign(&mut self, sign: &str) -> Result<()> {
        match self.skip_sign(sign) {
            true => Ok(()),
            false => self.unexpected(&format!("`{sign}`")),
        }
    }

    fn name(&mut self) -> Result<String> {
        match self.peek() {
            Token::Name(name) => {
                let name = name.clone();
                self.next();
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T> {
        let found = match self.peek() {
            Token::Text(_) | Token::PrintStart | Token::BlockStart => "the text after the tag".to_owned(),
            Token::PrintEnd => "`}}`".to_owned(),
            Token::BlockEnd => "`%}`".to_owned(),
            Token::Name(name) => format!("`{name}`"),
            Token::Str(text) => format!("the string {text:?}"),
            Token::Int(value) => format!("`{value}`"),
            Token::Huge(value) => format!("`{value}`"),
            Token::Float(value) => format!("`{value}`"),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end of the template".to_owned(),
        };
        fail(format!("expected {expected}, found {found}"))
    }

    /// Runs `parse` one level deeper.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEPTH {
            return fail(format!("the template is nested deeper than {DEPTH} levels"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Counts a link of a chain, which makes the tree deeper as brackets do.
    fn link(&self, links: &mut usize) -> Result<()> {
        *links += 1;
        match *links > CHAIN {
            true => fail(format!("more than {CHAIN} operators, filters or subscripts in a row")),
            false => Ok(()),
        }
    }

    /// Statements up to a tag with one of these names, which is returned; up to the end if there are none.
    fn body(&mut self, ends: &[&str]) -> Result<(Body, String)> {
        self.deeper(|parser| {
            let mut body = Vec::new();
            loop {
                let line = parser.line();
                let kind = match parser.next() {
                    Token::Text(text) => Kind::Text(text),
                    Token::PrintStart => {
                        let value = parser.tuple(true)?;
                        if *parser.peek() != Token::PrintEnd {
                            return parser.unexpected("`}}`");
                        }
                        parser.next();
                        Kind::Print(value)
                    }
                    Token::BlockStart => {
                        let name = parser.name()?;
                        if ends.contains(&&*name) {
                            return Ok((body, name));
                        }
                        parser.statement(&name, ends)?
                    }
                    _ if ends.is_empty() => return Ok((body, String::new())),
                    _ => {
                        return fail(format!(
                            "the template ends where `{}` is missing",
                            ends[ends.len() - 1]
                        ));
                    }
                };
                body.push(Statement { line, kind });
            }
        })
    }

    fn block_end(&mut self) -> Result<()> {
        match self.peek() {
            Token::BlockEnd => {
                self.next();
                Ok(())
            }
            _ => self.unexpected("`%}`"),
        }
    }

    /// The rest of a tag, and the statements up to the tag that ends it.
    fn block(&mut self, end: &str) -> Result<Body> {
        self.skip_sign(":");
        self.block_end()?;
        let (body, _) = self.body(&[end])?;
        self.block_end()?;
        Ok(body)
    }

    fn statement(&mut self, name: &str, ends: &[&str]) -> Result<Kind> {
        match name {
            "if" => self.conditional(),
            "for" => self.repetition(),
            "set" => self.assignment(),
            "with" => {
                let mut values = Vec::new();
                while *self.peek() != Token::BlockEnd {
                    if !values.is_empty() {
                        self.expect_sign(",")?;
                    }
                    let target = self.target(false)?;
                    self.expect_sign("=")?;
                    values.push((target, self.expression()?));
                }
                Ok(Kind::With(values, self.block("endwith")?))
            }
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                Ok(Kind::Macro(Arc::new(self.definition(name, parameters, "endmacro")?)))
            }
            "call" => {
                let parameters = if self.at_sign("(") { self.parameters()? } else { Vec::new() };
                let call = self.expression()?;
                if !matches!(call, Expr::Call(..)) {
                    return fail("`call` needs the call of a macro");
                }
                Ok(Kind::Call(call, Arc::new(self.definition("caller".into(), parameters, "endcall")?)))
            }
            "filter" => {
                let mut filters = vec![self.filter()?];
                while self.skip_sign("|") {
                    filters.push(self.filter()?);
                }
                Ok(Kind::FilterBlock(filters, self.block("endfilter")?))
            }
            "generation" => Ok(Kind::Generation(self.block("endgeneration")?)),
            "print" => {
                let value = self.tuple(true)?;
                self.block_end()?;
                Ok(Kind::Print(value))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return fail(format!("`{name}` outside of a loop"));
                }
                self.block_end()?;
                Ok(if name == "break" { Kind::Break } else { Kind::Continue })
            }
            _ if UNSUPPORTED.contains(&name) => {
                Err(Error::unsupported(format!("the statement `{name}` of Jinja")))
            }
            _ => match ends.last() {
                Some(end) => {
                    fail(format!("unknown statement `{name}`, where `{end}` was expected at the latest"))
                }
                None => fail(format!("unknown statement `{name}`")),
            },
        }
    }

    fn conditional(&mut self) -> Result<Kind> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false)?;
            self.skip_sign(":");
            self.block_end()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match &*end {
                "elif" => {}
                "else" => return Ok(Kind::If(branches, self.block("endif")?)),
                _ => {
                    self.block_end()?;
                    return Ok(Kind::If(branches, Vec::new()));
                }
            }
        }
    }

    fn repetition(&mut self) -> Result<Kind> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return self.unexpected("`in`");
        }
        let iterable = self.tuple(false)?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.skip_sign(":");
        self.block_end()?;
        self.loops += 1;
        let parsed = self.body(&["else", "endfor"]);
        self.loops -= 1;
        let (body, end) = parsed?;
        let otherwise = match &*end {
            "else" => self.block("endfor")?,
            _ => {
                self.block_end()?;
                Vec::new()
            }
        };
        Ok(Kind::For(Arc::new(For { target, iterable, condition, recursive, body, otherwise })))
    }

    fn assignment(&mut self) -> Result<Kind> {
        let target = self.target(true)?;
        if self.skip_sign("=") {
            let value = self.tuple(true)?;
            self.block_end()?;
            return Ok(Kind::Set(target, value));
        }
        let mut filters = Vec::new();
        while self.skip_sign("|") {
            filters.push(self.filter()?);
        }
        Ok(Kind::SetBlock(target, filters, self.block("endset")?))
    }

    /// What is assigned to: a name, names with commas, and with `fields` a field of a namespace.
    fn target(&mut self, fields: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut tuple = false;
        loop {
            if tuple && (self.at_sign("=") || self.at_sign(")") || self.at_name("in")) {
                break;
            }
            if self.skip_sign("(") {
                targets.push(self.deeper(|parser| parser.target(fields))?);
                self.expect_sign(")")?;
            } else {
                let name = self.name()?;
                if ["true", "false", "none", "True", "False", "None"].contains(&&*name) {
                    return fail(format!("cannot assign to `{name}`"));
                }
                if name == "loop" && self.loops > 0 {
                    return fail("cannot assign to `loop` inside of a loop");
                }
                targets.push(match fields && self.skip_sign(".") {
                    true => Target::Field(name, self.name()?),
                    false => Target::Name(name),
                });
            }
            if !self.skip_sign(",") {
                break;
            }
            tuple = true;
        }
        match (tuple, targets.pop()) {
            (false, Some(only)) => Ok(only),
            (_, last) => Ok(Target::Tuple(targets.into_iter().chain(last).collect())),
        }
    }

    fn parameters(&mut self) -> Result<Vec<(String, Option<Expr>)>> {
        self.expect_sign("(")?;
        let mut parameters: Vec<(String, Option<Expr>)> = Vec::new();
        while !self.skip_sign(")") {
            if !parameters.is_empty() {
                self.expect_sign(",")?;
            }
            let name = self.name()?;
            let default = if self.skip_sign("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.iter().any(|(_, default)| default.is_some()) {
                return fail(format!("`{name}` needs a default, because a parameter before it has one"));
            }
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    fn definition(
        &mut self,
        name: String,
        parameters: Vec<(String, Option<Expr>)>,
        end: &str,
    ) -> Result<Definition> {
        let loops = std::mem::take(&mut self.loops);
        self.macros.push(Mentions::default());
        let body = self.block(end);
        self.loops = loops;
        let mentions = self.macros.pop().unwrap_or_default();
        Ok(Definition { name, parameters, body: body?, mentions })
    }

    /// Expressions with commas between them are a tuple. `conditions` allows `a if b else c`.
    fn tuple(&mut self, conditions: bool) -> Result<Expr> {
        let mut items = Vec::new();
        let mut tuple = false;
        loop {
            let ends = matches!(self.peek(), Token::PrintEnd | Token::BlockEnd)
                || self.at_sign(")")
                || (!conditions && self.at_name("recursive"));
            if ends && (tuple || self.at_sign(")")) {
                break;
            }
            items.push(if conditions { self.expression()? } else { self.or()? });
            if !self.skip_sign(",") {
                break;
            }
            tuple = true;
        }
        match (tuple, items.pop()) {
            (false, Some(only)) => Ok(only),
            (_, last) => Ok(Expr::Tuple(items.into_iter().chain(last).collect())),
        }
    }

    fn expression(&mut self) -> Result<Expr> {
        self.deeper(|parser| {
            let mut value = parser.or()?;
            let mut links = 0;
            while parser.skip_name("if") {
                parser.link(&mut links)?;
                let condition = parser.or()?;
                let otherwise =
                    if parser.skip_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                value = Expr::If(Box::new(condition), Box::new(value), otherwise);
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Result<Expr> {
        let mut left = self.and()?;
        let mut links = 0;
        while self.skip_name("or") {
            self.link(&mut links)?;
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let mut left = self.not()?;
        let mut links = 0;
        while self.skip_name("and") {
            self.link(&mut links)?;
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr> {
        if self.skip_name("not") {
            return self.deeper(|parser| Ok(Expr::Not(Box::new(parser.not()?))));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let not_in = self.at_name("not")
                && matches!(self.tokens.get(self.at + 1), Some((Token::Name(name), _)) if name == "in");
            let operator = match self.peek() {
                Token::Sign("==") => Comparison::Eq,
                Token::Sign("!=") => Comparison::Ne,
                Token::Sign("<") => Comparison::Lt,
                Token::Sign("<=") => Comparison::Le,
                Token::Sign(">") => Comparison::Gt,
                Token::Sign(">=") => Comparison::Ge,
                Token::Name(name) if name == "in" => Comparison::In,
                _ if not_in => {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            others.push((operator, self.sum()?));
        }
        Ok(if others.is_empty() { first } else { Expr::Compare(Box::new(first), others) })
    }

    fn sum(&mut self) -> Result<Expr> {
        let mut left = self.concatenation()?;
        let mut links = 0;
        loop {
            self.link(&mut links)?;
            let operator = match self.peek() {
                Token::Sign("+") => Binary::Add,
                Token::Sign("-") => Binary::Sub,
                _ => return Ok(left),
            };
            self.next();
            left = Expr::Binary(operator, Box::new(left), Box::new(self.concatenation()?));
        }
    }

    fn concatenation(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.at_sign("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_sign("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Result<Expr> {
        let mut left = self.power()?;
        let mut links = 0;
        loop {
            self.link(&mut links)?;
            let operator = match self.peek() {
                Token::Sign("*") => Binary::Mul,
                Token::Sign("/") => Binary::Div,
                Token::Sign("//") => Binary::FloorDiv,
                Token::Sign("%") => Binary::Mod,
                _ => return Ok(left),
            };
            self.next();
            left = Expr::Binary(operator, Box::new(left), Box::new(self.power()?));
        }
    }

    /// In Jinja, unlike in Python, powers are taken from left to right and signs bind more tightly.
    fn power(&mut self) -> Result<Expr> {
        let mut left = self.unary(true)?;
        let mut links = 0;
        while self.skip_sign("**") {
            self.link(&mut links)?;
            left = Expr::Binary(Binary::Pow, Box::new(left), Box::new(self.unary(true)?));
        }
        Ok(left)
    }

    fn unary(&mut self, filters: bool) -> Result<Expr> {
        self.deeper(|parser| {
            let value = if parser.skip_sign("-") {
                Expr::Neg(Box::new(parser.unary(false)?))
            } else if parser.skip_sign("+") {
                Expr::Pos(Box::new(parser.unary(false)?))
            } else {
                parser.primary()?
            };
            let value = parser.postfix(value)?;
            if filters { parser.filtered(value) } else { Ok(value) }
        })
    }

    fn primary(&mut self) -> Result<Expr> {
        let literal = match self.peek().clone() {
            Token::Name(name) => {
                self.next();
                match &*name {
                    "true" | "True" => Literal::Bool(true),
                    "false" | "False" => Literal::Bool(false),
                    "none" | "None" => Literal::None,
                    _ => {
                        for mentions in &mut self.macros {
                            mentions.varargs |= name == "varargs";
                            mentions.kwargs |= name == "kwargs";
                            mentions.caller |= name == "caller";
                        }
                        return Ok(Expr::Name(name));
                    }
                }
            }
            Token::Str(mut text) => {
                self.next();
                while let Token::Str(more) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Literal::Str(text)
            }
            Token::Int(value) => {
                self.next();
                Literal::Int(value)
            }
            Token::Huge(value) => {
                self.next();
                Literal::Huge(value)
            }
            Token::Float(value) => {
                self.next();
                Literal::Float(value)
            }
            Token::Sign("(") => {
                self.next();
                let inner = self.tuple(true)?;
                self.expect_sign(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => {
                self.next();
                let mut items = Vec::new();
                while !self.skip_sign("]") {
                    if !items.is_empty() {
                        self.expect_sign(",")?;
                        if self.skip_sign("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                return Ok(Expr::List(items));
            }
            Token::Sign("{") => {
                self.next();
                let mut items = Vec::new();
                while !self.skip_sign("}") {
                    if !items.is_empty() {
                        self.expect_sign(",")?;
                        if self.skip_sign("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_sign(":")?;
                    items.push((key, self.expression()?));
                }
                return Ok(Expr::Dict(items));
            }
            _ => return self.unexpected("an expression"),
        };
        Ok(Expr::Literal(literal))
    }

    /// Attributes, subscripts and calls after a value.
    fn postfix(&mut self, mut value: Expr) -> Result<Expr> {
        let mut links = 0;
        loop {
            self.link(&mut links)?;
            value = if self.skip_sign(".") {
                match self.next() {
                    Token::Name(name) => Expr::Attribute(Box::new(value), name),
                    Token::Int(index) => {
                        Expr::Item(Box::new(value), Box::new(Expr::Literal(Literal::Int(index))))
                    }
                    _ => return fail("expected a name after `.`"),
                }
            } else if self.skip_sign("[") {
                self.subscript(value)?
            } else if self.at_sign("(") {
                Expr::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
        }
    }

    fn subscript(&mut self, of: Expr) -> Result<Expr> {
        let mut bounds = [None, None, None];
        let mut bound = 0;
        while !self.at_sign("]") {
            if self.skip_sign(":") {
                bound += 1;
                if bound == bounds.len() {
                    return self.unexpected("`]`");
                }
            } else if bounds[bound].is_some() {
                return self.unexpected("`]` or `:`");
            } else {
                bounds[bound] = Some(Box::new(self.expression()?));
            }
            if bound == 0 && self.at_sign(",") {
                return Err(Error::unsupported("a subscript with commas"));
            }
        }
        self.next();
        match (bound, bounds) {
            (0, [Some(index), ..]) => Ok(Expr::Item(Box::new(of), index)),
            (0, _) => fail("expected an expression, found `]`"),
            (_, bounds) => Ok(Expr::Slice(Box::new(of), bounds)),
        }
    }

    /// Filters, tests and calls after a value.
    fn filtered(&mut self, mut value: Expr) -> Result<Expr> {
        let mut links = 0;
        loop {
            self.link(&mut links)?;
            value = if self.skip_sign("|") {
                let filter = self.filter()?;
                Expr::Filter(Box::new(value), filter)
            } else if self.skip_name("is") {
                self.test(value)?
            } else if self.at_sign("(") {
                Expr::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
        }
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.name()?;
        while self.skip_sign(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name)
    }

    fn filter(&mut self) -> Result<Filter> {
        let name = self.dotted_name()?;
        let arguments = if self.at_sign("(") { self.arguments()? } else { Arguments::default() };
        Ok(Filter { name, arguments })
    }

    fn test(&mut self, value: Expr) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let begins_value = match self.peek() {
            Token::Name(name) => !matches!(&**name, "else" | "or" | "and"),
            Token::Str(_) | Token::Int(_) | Token::Huge(_) | Token::Float(_) => true,
            Token::Sign(sign) => matches!(*sign, "[" | "{"),
            _ => false,
        };
        let arguments = if self.at_sign("(") {
            self.arguments()?
        } else if begins_value {
            if self.at_name("is") {
                return fail("tests cannot be chained with `is`");
            }
            let argument = self.primary()?;
            Arguments { positional: vec![self.postfix(argument)?], ..Arguments::default() }
        } else {
            Arguments::default()
        };
        let test = Expr::Test(Box::new(value), Filter { name, arguments });
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.expect_sign("(")?;
        let mut arguments = Arguments::default();
        let mut first = true;
        while !self.skip_sign(")") {
            if !std::mem::take(&mut first) {
                self.expect_sign(",")?;
                if self.skip_sign(")") {
                    break;
                }
            }
            let named = matches!(self.peek(), Token::Name(_))
                && matches!(self.tokens.get(self.at + 1), Some((Token::Sign("="), _)));
            if self.skip_sign("**") {
                arguments.dict = Some(Box::new(self.expression()?));
            } else if self.skip_sign("*") {
                arguments.list = Some(Box::new(self.expression()?));
            } else if named {
                let name = self.name()?;
                self.next();
                let value = self.expression()?;
                arguments.named.push((name, value));
            } else if arguments.named.is_empty() && arguments.list.is_none() && arguments.dict.is_none() {
                arguments.positional.push(self.expression()?);
            } else {
                return fail("an argument without a name follows arguments with names");
            }
        }
        Ok(arguments)
    }
}
