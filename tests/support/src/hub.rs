//! A hub on this machine: what the Hugging Face Hub answers about repositories, and a store that it redirects to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The names and the contents of files.
pub type Files = Vec<(String, Vec<u8>)>;

/// A repository and how the hub treats requests for it.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    /// What each revision is: its commit and the files of that.
    pub revisions: BTreeMap<String, (String, Files)>,
    /// The token that opens it; anybody may read it if there is none.
    pub gate: Option<String>,
    /// Whether its files are kept in the store, with their SHA-256 as ETag.
    pub stored: bool,
    /// Its new name, if it was renamed.
    pub renamed: Option<String>,
}

impl Repository {
    /// A repository with these files on `main`. The commit is 40 times this digit.
    pub fn new(digit: char, files: &[(&str, &[u8])]) -> Self {
        let mut made = Repository::default();
        made.revision("main", digit, files);
        made
    }

    /// Adds or moves a revision.
    pub fn revision(&mut self, name: &str, digit: char, files: &[(&str, &[u8])]) {
        let commit = digit.to_string().repeat(40);
        let files: Vec<_> =
            files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        self.revisions.insert(commit.clone(), (commit.clone(), files.clone()));
        self.revisions.insert(name.to_owned(), (commit, files));
    }
}

/// What a hub and its store have.
#[derive(Default)]
pub struct State {
    /// Repositories by kind and id: `models/owner/name`.
    pub repositories: BTreeMap<String, Repository>,
    /// The method, address and `Range` of every request.
    pub requests: Vec<String>,
    /// How many bytes of each file go through before the connection is lost; the first of the list for the next request.
    pub cuts: Vec<usize>,
    /// Requests to the store that carried the token, which is none of its business.
    pub leaks: usize,
    /// Whether what comes from the store is not what the hub says.
    pub spoiled: bool,
    /// The address of the store.
    store: String,
}

/// The running hub. It ends with the process.
#[derive(Clone)]
pub struct HubServer {
    /// Its address, for `HF_ENDPOINT`.
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl HubServer {
    /// Starts a hub with these repositories, by kind and id: `models/owner/name`.
    pub fn start(repositories: &[(&str, Repository)]) -> Self {
        let repositories = repositories.iter().map(|(id, of)| ((*id).to_owned(), of.clone())).collect();
        let state = Arc::new(Mutex::new(State { repositories, ..State::default() }));
        let serve = |answer: fn(&mut State, &Request) -> Answer| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            let port = listener.local_addr().expect("it has an address").port();
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    thread::spawn(move || talk(stream, &state, answer));
                }
            });
            port
        };
        // The two have different names, as a hub and its store have.
        let store = format!("http://localhost:{}", serve(of_store));
        let endpoint = format!("http://127.0.0.1:{}", serve(of_hub));
        state.lock().expect("no thread has panicked").store = store;
        HubServer { endpoint, state }
    }

    /// Looks at the state, or changes it.
    pub fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().expect("no thread has panicked"))
    }
}

struct Request {
    method: String,
    path: String,
    range: Option<usize>,
    token: Option<String>,
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
}

impl Answer {
    fn error(status: u16, code: &str) -> Self {
        Answer { status, headers: vec![("X-Error-Code", code.to_owned())], ..Answer::default() }
    }

    fn text(body: String) -> Self {
        Answer { status: 200, body: body.into_bytes(), ..Answer::default() }
    }
}

fn talk(stream: TcpStream, state: &Mutex<State>, answer: fn(&mut State, &Request) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut request = Request { method, path, range: None, token: None };
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    request.range = value.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok();
                }
                "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
                _ => {}
            }
        }
        let answer = {
            let mut state = state.lock().ok()?;
            let range = request.range.map_or(String::new(), |from| format!(" from {from}"));
            state.requests.push(format!("{} {}{range}", request.method, request.path));
            answer(&mut state, &request)
        };
        let mut head =
            format!("HTTP/1.1 {} Answer\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        if request.method == "HEAD" {
            continue;
        }
        stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())]).ok()?;
        if answer.cut.is_some() {
            return None;
        }
    }
}

/// What the hub itself answers.
fn of_hub(state: &mut State, request: &Request) -> Answer {
    let path = request.path.trim_start_matches('/');
    // `api/models/owner/name/revision/main`, and `owner/name/resolve/main/file` or `datasets/owner/name/...`.
    let parts: Vec<&str> = path.split('/').collect();
    let (kind, owner, name, verb, rest) = match *parts {
        ["api", kind, owner, name, verb, ref rest @ ..] => (kind, owner, name, verb, rest),
        ["datasets", owner, name, verb, ref rest @ ..] => ("datasets", owner, name, verb, rest),
        [owner, name, verb, ref rest @ ..] => ("models", owner, name, verb, rest),
        _ => return Answer::error(404, "EntryNotFound"),
    };
    let Some(repository) = state.repositories.get(&format!("{kind}/{owner}/{name}")).cloned() else {
        // As the hub does, which tells nobody what is private.
        return Answer::error(if request.token.is_some() { 404 } else { 401 }, "RepoNotFound");
    };
    if let Some(renamed) = repository.renamed {
        let place = format!("/{}", path.replacen(&format!("{owner}/{name}"), &renamed, 1));
        return Answer { status: 307, headers: vec![("Location", place)], ..Answer::default() };
    }
    if repository.gate.is_some() && repository.gate != request.token {
        return Answer::error(if request.token.is_some() { 403 } else { 401 }, "GatedRepo");
    }
    let Some((revision, rest)) = rest.split_first() else { return Answer::error(404, "EntryNotFound") };
    let Some((commit, files)) = repository.revisions.get(&revision.replace("%2F", "/")) else {
        return Answer::error(404, "RevisionNotFound");
    };
    if verb == "revision" {
        let names: Vec<String> =
            files.iter().map(|(name, _)| format!("{{\"rfilename\": {name:?}}}")).collect();
        return Answer::text(format!("{{\"sha\": {commit:?}, \"siblings\": [{}]}}", names.join(", ")));
    }
    let file = rest.join("/");
    let Some((_, content)) = files.iter().find(|(name, _)| *name == file) else {
        return Answer::error(404, "EntryNotFound");
    };
    let mut headers = vec![("X-Repo-Commit", commit.clone())];
    if repository.stored {
        headers.push(("X-Linked-ETag", format!("{:?}", sha256(content))));
        headers.push(("X-Linked-Size", content.len().to_string()));
        headers.push(("Location", format!("{}/{kind}/{owner}/{name}/{commit}/{file}", state.store)));
        return Answer { status: 302, headers, ..Answer::default() };
    }
    headers.push(("ETag", format!("{:?}", &sha256(content)[..40])));
    part(state, request, content, headers)
}

/// What the store answers.
fn of_store(state: &mut State, request: &Request) -> Answer {
    state.leaks += usize::from(request.token.is_some());
    let parts: Vec<&str> = request.path.trim_start_matches('/').splitn(5, '/').collect();
    let [kind, owner, name, commit, file] = *parts else { return Answer::error(404, "") };
    let repository = state.repositories.get(&format!("{kind}/{owner}/{name}"));
    let files = repository.and_then(|repository| repository.revisions.get(commit));
    let content = files.and_then(|(_, files)| files.iter().find(|(name, _)| name == file));
    let Some((_, content)) = content.cloned() else { return Answer::error(404, "") };
    let spoiled = || content.iter().map(|byte| byte ^ 1).collect();
    let content = if state.spoiled { spoiled() } else { content.clone() };
    part(state, request, &content, Vec::new())
}

/// A file from where it is asked for.
fn part(
    state: &mut State,
    request: &Request,
    content: &[u8],
    headers: Vec<(&'static str, String)>,
) -> Answer {
    let mut headers = headers;
    let from = request.range.unwrap_or(0);
    if from >= content.len() && from > 0 {
        return Answer { status: 416, headers, ..Answer::default() };
    }
    let body = content[from..].to_vec();
    if request.range.is_some() {
        headers.push(("Content-Range", format!("bytes {from}-{}/{}", content.len() - 1, content.len())));
    }
    let cuts = request.method != "HEAD" && !state.cuts.is_empty();
    let cut = cuts.then(|| state.cuts.remove(0)).map(|cut| cut.min(body.len()));
    Answer { status: if request.range.is_some() { 206 } else { 200 }, headers, body, cut }
}

fn sha256(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
