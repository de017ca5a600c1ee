//! `spo-run chat`: a conversation with a saved model, or with two of them.

use std::io::{BufRead, IsTerminal, Read, stdin};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use console::Term;
use serde_json::Map;
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use spo_api::{Registry, Session, nearest};
use spo_data::{Message, Tokenizer, message};

use super::answering::{Answer, Answering, End};
use super::saved_model::SavedModel;
use crate::error::{BadInput, bad};
use crate::reporter::{complain, say, say_part};
use crate::terminal::{self, Line as StatusLine};

/// The longest message, in bytes.
const LONGEST: u64 = 1 << 20;

const COMMANDS: [(&str, &str); 4] = [
    ("/reset", "begin a new conversation"),
    ("/system TEXT", "set the system prompt and begin a new conversation; without TEXT there is none"),
    ("/quit", "end, like Ctrl-D"),
    ("/help", "show these commands"),
];

#[derive(clap::Args)]
#[command(after_help = "Examples:
  spo-run chat runs/mine/dpo --temperature 0.7
  spo-run chat runs/mine/spo --against runs/mine/dpo --system \"Answer in one sentence.\"")]
pub(crate) struct ChatArguments {
    #[command(flatten)]
    model: SavedModel,
    /// A second model, which hears the same and answers for itself.
    #[arg(long, value_name = "MODEL")]
    against: Option<PathBuf>,
    #[command(flatten)]
    how: Answering,
    /// The system prompt.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

/// A model with the conversation as it knows it.
struct Partner {
    name: String,
    tokenizer: Tokenizer,
    session: Box<dyn Session>,
    messages: Vec<Message>,
}

/// What a line of the user asks for.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Nothing,
    Say(&'a str),
    Reset,
    System(Option<&'a str>),
    Quit,
    Help,
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.trim();
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        match (command, rest) {
            ("", _) => Line::Nothing,
            ("/reset", "") => Line::Reset,
            ("/system", rest) => Line::System((!rest.is_empty()).then_some(rest)),
            ("/quit" | "/exit" | "/bye", "") => Line::Quit,
            ("/help" | "/?", "") => Line::Help,
            _ if command.starts_with('/') => Line::Unknown(command),
            _ => Line::Say(text),
        }
    }
}

impl ChatArguments {
    /// Reads messages from standard input, a line each, until it ends. Ctrl-C ends an answer, not the program.
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        self.how.check()?;
        let models = std::iter::once(None).chain(self.against.as_ref().map(Some));
        let models =
            models.map(|other| other.map_or_else(|| self.model.clone(), |path| self.model.other(path)));
        let mut partners =
            models.map(|model| Partner::open(&model, registry)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut system = self.system.clone();
        partners.iter_mut().for_each(|partner| partner.reset(system.as_deref()));
        let interrupted = Arc::new(AtomicBool::new(false));
        flag::register(SIGINT, interrupted.clone()).context("cannot listen to signals")?;
        let person = stdin().is_terminal();
        if person {
            say("Ctrl-C ends an answer, Ctrl-D the conversation; /help shows commands.");
        }
        let mut input = stdin().lock();
        loop {
            if person {
                say_part("> ");
            }
            let mut line = Vec::new();
            let read = (&mut input)
                .take(LONGEST)
                .read_until(b'\n', &mut line)
                .context("cannot read standard input")?;
            if read == 0 {
                break;
            }
            let Ok(line) = String::from_utf8(line) else {
                complain("this line is not UTF-8 text");
                continue;
            };
            match Line::of(&line) {
                Line::Nothing => {}
                Line::Quit => break,
                Line::Help => {
                    COMMANDS.iter().for_each(|(command, does)| say(&format!("{command:14} {does}")));
                }
                Line::Reset => partners.iter_mut().for_each(|partner| partner.reset(system.as_deref())),
                Line::System(text) => {
                    system = text.map(str::to_owned);
                    partners.iter_mut().for_each(|partner| partner.reset(system.as_deref()));
                }
                Line::Unknown(command) => {
                    let known = COMMANDS.map(|(command, _)| command.split(' ').next().unwrap_or(command));
                    let hint = nearest(command, known)
                        .map_or("/help shows them".to_owned(), |near| format!("did you mean {near}?"));
                    complain(&format!("there is no command {command}; {hint}"));
                }
                Line::Say(text) => self.turn(&mut partners, text, &interrupted)?,
            }
        }
        Ok(())
    }

    /// Every model answers a message.
    fn turn(&self, partners: &mut [Partner], text: &str, interrupted: &AtomicBool) -> anyhow::Result<()> {
        interrupted.store(false, Ordering::Relaxed);
        let beside = partners.len() > 1 && terminal::is_wide();
        let names = partners.len() > 1 && !beside;
        let mut answers = Vec::new();
        for partner in partners {
            if names {
                say(&format!("[{}]", partner.name));
            }
            let name = partner.name.clone();
            // Answers beside each other are shown when both are there; until then, how far they are.
            let mut line = if beside { StatusLine::on(Term::stdout()) } else { None };
            let mut tokens = 0;
            let mut show = |_, part: &str| {
                tokens += 1;
                match &mut line {
                    Some(line) => line.set(format!("{name} answers: {tokens} tokens")),
                    None => say_part(part),
                }
                !interrupted.load(Ordering::Relaxed)
            };
            let answer = partner.answer(&self.how, text, &mut show);
            drop(line);
            match answer {
                Ok(Answer { text, tokens, end }) => {
                    let note = match end {
                        End::Length => format!(" (cut after {tokens} tokens)"),
                        End::Interrupted => " (interrupted)".to_owned(),
                        End::Token | End::Text => String::new(),
                    };
                    if !beside {
                        say(&note);
                    }
                    answers.push((name, text + &note));
                }
                // A conversation can become too long, and a template can refuse a message: there is more to say.
                Err(error) if error.is::<BadInput>() => {
                    complain(&format!("{error}"));
                    answers.push((name, String::new()));
                }
                Err(error) => return Err(error),
            }
        }
        if let ([left, right], true) = (&*answers, beside) {
            say(&terminal::beside(left, right));
        }
        Ok(())
    }
}

impl Partner {
    fn open(model: &SavedModel, registry: &mut Registry) -> anyhow::Result<Self> {
        let (tokenizer, session) = model.open(registry)?;
        let name = model.model.display().to_string();
        if tokenizer.template().is_err() {
            return Err(bad(format!(
                "{name} has no chat template, so it is not made for conversations: \
                 `spo-run generate` continues plain text"
            ))
            .into());
        }
        Ok(Partner { name, tokenizer, session, messages: Vec::new() })
    }

    fn reset(&mut self, system: Option<&str>) {
        self.messages = system.map(|system| message("system", system.into())).into_iter().collect();
    }

    /// Answers a message of the user. If that fails, the conversation is as it was.
    fn answer(
        &mut self,
        how: &Answering,
        text: &str,
        show: &mut dyn FnMut(usize, &str) -> bool,
    ) -> anyhow::Result<Answer> {
        let before = self.messages.len();
        self.messages.push(message("user", text.into()));
        let answer = self.next(how, show);
        match &answer {
            Ok(answer) => self.messages.push(message("assistant", answer.text.as_str().into())),
            Err(_) => self.messages.truncate(before),
        }
        answer
    }

    fn next(&mut self, how: &Answering, show: &mut dyn FnMut(usize, &str) -> bool) -> anyhow::Result<Answer> {
        let ids = self.tokenizer.encode_chat(&self.messages, true, &Map::new());
        let ids = ids.map_err(bad)?;
        let prompts = [ids];
        let max_new_tokens = how
            .limit(&prompts, &self.session.info())
            .map_err(|BadInput(problem)| BadInput(format!("{problem}; /reset begins a new conversation")))?;
        let model = (&self.tokenizer, &mut self.session);
        let mut answers = how.answer(model, &prompts, max_new_tokens, show)?;
        answers.pop().context("a model gives an answer to every prompt")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        for (line, expected) in [
            ("  \n", Line::Nothing),
            ("hello there\n", Line::Say("hello there")),
            ("what is 1/2?", Line::Say("what is 1/2?")),
            ("/reset\n", Line::Reset),
            ("/system  be brief \n", Line::System(Some("be brief"))),
            ("/system", Line::System(None)),
            ("/quit", Line::Quit),
            ("/help", Line::Help),
            ("/rest", Line::Unknown("/rest")),
            ("/reset now", Line::Unknown("/reset")),
        ] {
            assert_eq!(Line::of(line), expected, "{line:?}");
        }
    }
}
