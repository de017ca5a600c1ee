//! Controls a real browser through its debugging protocol, over two pipes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// The browser that `SPO_BROWSER` names, or one that is installed.
pub fn find() -> Option<PathBuf> {
    let named = std::env::var_os("SPO_BROWSER").map(PathBuf::from);
    let names =
        ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let mut installed = folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    named.or_else(|| installed.find(|path| path.is_file()))
}

/// What a browser reports about a page.
pub struct Visit {
    /// The addresses it requested.
    pub requests: Vec<String>,
    /// Console messages and errors.
    pub complaints: Vec<Value>,
    /// The value of the expression.
    pub value: Value,
}

/// A running browser; dropping it ends the browser.
struct Browser {
    child: Child,
    commands: File,
    answers: BufReader<File>,
    requests: Vec<String>,
    complaints: Vec<Value>,
    sent: u64,
}

/// Opens a page, waits until it is loaded, and evaluates a JavaScript expression in it.
pub fn visit(browser: &Path, folder: &Path, page: &Path, dark: bool, expression: &str) -> Visit {
    let mut browser = Browser::start(browser, folder);
    let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }), None);
    let attach = json!({ "targetId": target["targetId"], "flatten": true });
    let session = browser.call("Target.attachToTarget", attach, None)["sessionId"].clone();
    for domain in ["Runtime", "Log", "Network", "Page"] {
        browser.call(&format!("{domain}.enable"), json!({}), Some(&session));
    }
    let scheme = json!([{ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } }]);
    browser.call("Emulation.setEmulatedMedia", json!({ "features": scheme }), Some(&session));
    let url = format!("file://{}", page.display());
    browser.call("Page.navigate", json!({ "url": url }), Some(&session));
    while browser.next()["method"] != "Page.loadEventFired" {}
    let question = json!({ "expression": expression, "returnByValue": true });
    let answer = browser.call("Runtime.evaluate", question, Some(&session));
    let value = answer["result"]["value"].clone();
    Visit {
        requests: std::mem::take(&mut browser.requests),
        complaints: std::mem::take(&mut browser.complaints),
        value,
    }
}

impl Browser {
    fn start(browser: &Path, folder: &Path) -> Self {
        let pipes = ["commands", "answers"].map(|name| folder.join(name));
        let made = Command::new("mkfifo").args(&pipes).status().expect("mkfifo runs");
        assert!(made.success());
        // The protocol uses file descriptors 3 and 4. A shell can redirect them.
        let script = "exec \"$0\" --headless --no-sandbox --no-zygote --single-process --disable-gpu \
                      --disable-background-networking --disable-component-update --no-first-run \
                      --user-data-dir=\"$3\" --remote-debugging-pipe 3<\"$1\" 4>\"$2\"";
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(browser)
            .args(&pipes)
            .arg(folder.join("profile"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let commands = File::create(&pipes[0]).expect("a pipe");
        let answers = BufReader::new(File::open(&pipes[1]).expect("a pipe"));
        // If the browser hangs, the test must fail and not hang as well.
        let id = child.id().to_string();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(60));
            let _ = Command::new("kill").args(["-9", &id]).status();
        });
        Browser { child, commands, answers, requests: Vec::new(), complaints: Vec::new(), sent: 0 }
    }

    /// Reads the next message and notes requests and complaints.
    fn next(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.answers.read_until(0, &mut bytes).expect("the browser speaks");
        assert_eq!(bytes.pop(), Some(0), "the browser went away");
        let message: Value = serde_json::from_slice(&bytes).expect("JSON");
        let told = &message["params"];
        match message["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requests.push(told["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            Some("Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded") => {
                self.complaints.push(told.clone());
            }
            _ => {}
        }
        message
    }

    /// Sends a command and waits for its result.
    fn call(&mut self, method: &str, parameters: Value, session: Option<&Value>) -> Value {
        self.sent += 1;
        let mut command = json!({ "id": self.sent, "method": method, "params": parameters });
        if let Some(session) = session {
            command["sessionId"] = session.clone();
        }
        let text = command.to_string() + "\0";
        self.commands.write_all(text.as_bytes()).expect("the browser listens");
        loop {
            let message = self.next();
            if message["id"] == self.sent {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
