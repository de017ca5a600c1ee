//! The moment that chat templates tell when they ask for the time.
//!
//! A run has one moment: a prompt must not change when the run is resumed on another day, or when its tokens
//! come from a cache.

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

use chrono::NaiveDateTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A moment in local time, to the microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Moment(NaiveDateTime);

/// As it is written in a run's record: ISO 8601 without a time zone.
const FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.6f";

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Moment(chrono::Local::now().naive_local())
    }

    pub(crate) fn time(self) -> NaiveDateTime {
        self.0
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format(FORMAT))
    }
}

impl TryFrom<String> for Moment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> String {
        moment.to_string()
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f");
        time.map(Moment).map_err(|_| format!("expected a time such as 2026-01-31T12:00:00, found `{text}`"))
    }
}

/// Formats a time as Python's `datetime.strftime` does in the locale of C. The time has no zone, as in
/// transformers, so that `%z` and `%Z` are empty.
///
/// # Errors
/// For a field that is not of C or Python.
pub(crate) fn strftime(time: NaiveDateTime, format: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let field = rest.next();
        let (flag, field) = match field {
            Some(flag @ ('-' | '_' | '0')) => (Some(flag), rest.next()),
            field => (None, field),
        };
        let Some(field) = field else { return Err(format!("the time format `{format}` ends with `%`")) };
        // chrono knows the fields of C, and means something else by `%f`, `%c` and `%+`.
        let chrono = match (field, flag) {
            ('z' | 'Z', None) => continue,
            ('f', None) => "%6f".to_owned(),
            ('c', None) => "%a %b %e %H:%M:%S %Y".to_owned(),
            ('x', None) => "%m/%d/%y".to_owned(),
            ('X', None) => "%H:%M:%S".to_owned(),
            (
                'd' | 'e' | 'm' | 'y' | 'Y' | 'H' | 'I' | 'k' | 'l' | 'M' | 'S' | 'j' | 'U' | 'W' | 'V' | 'G'
                | 'g',
                flag,
            ) => {
                format!("%{}{field}", flag.map(String::from).unwrap_or_default())
            }
            (
                'a' | 'A' | 'b' | 'B' | 'C' | 'D' | 'F' | 'h' | 'n' | 'p' | 'P' | 'r' | 'R' | 't' | 'T' | 'u'
                | 'w' | '%',
                None,
            ) => {
                format!("%{field}")
            }
            _ => {
                return Err(format!(
                    "the field `%{}{field}` of the time format `{format}` is not supported here",
                    flag.map(String::from).unwrap_or_default()
                ));
            }
        };
        write!(out, "{}", time.format(&chrono)).map_err(|_| format!("bad time format `{format}`"))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_being_written() {
        let moment: Moment = "2024-02-29T23:59:58.000123".parse().unwrap();
        assert_eq!(moment.to_string(), "2024-02-29T23:59:58.000123");
        assert_eq!(moment.to_string().parse::<Moment>().unwrap(), moment);
        assert_eq!(
            "2024-02-29T23:59:58".parse::<Moment>().unwrap().to_string(),
            "2024-02-29T23:59:58.000000"
        );
        assert!("yesterday".parse::<Moment>().unwrap_err().contains("`yesterday`"));
    }

    /// What `datetime(2024, 3, 5, 7, 8, 9, 12).strftime` gives in Python 3.11.
    #[test]
    fn times_are_written_as_python_writes_them() {
        let moment: Moment = "2024-03-05T07:08:09.000012".parse().unwrap();
        let cases = [
            ("%d %b %Y", "05 Mar 2024"),
            ("%A, %B %-d, %Y", "Tuesday, March 5, 2024"),
            ("%a %w %u %j %U %W %V %G", "Tue 2 2 065 09 10 10 2024"),
            ("%H:%M:%S.%f %I %p", "07:08:09.000012 07 AM"),
            ("%c|%x|%X", "Tue Mar  5 07:08:09 2024|03/05/24|07:08:09"),
            ("%y %m %e %F %T %D %R %C %h%%%n%t", "24 03  5 2024-03-05 07:08:09 03/05/24 07:08 20 Mar%\n\t"),
            ("[%z%Z] é", "[] é"),
        ];
        for (format, expected) in cases {
            assert_eq!(strftime(moment.time(), format).as_deref(), Ok(expected), "{format}");
        }
        assert!(strftime(moment.time(), "%Q").unwrap_err().contains("`%Q`"));
        assert!(strftime(moment.time(), "100%").unwrap_err().contains("ends with"));
    }
}
