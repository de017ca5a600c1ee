//! Downloads into the cache. A file grows as `blobs/ETAG.incomplete`, as with the Python client, and either of the two goes on
//! where the other was interrupted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::cache::Cached;
use crate::hub::{Hub, Progress};
use crate::online::Failure;
use crate::repo::{Repo, is_commit};
use crate::{Error, Result, Snapshot};

/// The most that the description of a repository may be, in bytes.
const LONGEST: u64 = 64 << 20;

/// Attempts at a file that each get some of it.
const ATTEMPTS: usize = 5;

/// The files of a commit.
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) names: Vec<String>,
    /// The revision that was asked for.
    asked: String,
}

/// A connection to the hub for one repository.
pub(crate) struct Download<'a> {
    hub: &'a Hub,
    repo: &'a Repo,
    cached: Cached,
    agent: Agent,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

/// What the hub says about a file.
struct About {
    /// Where it is.
    url: String,
    name: String,
    etag: String,
    size: Option<u64>,
}

impl<'a> Download<'a> {
    pub(crate) fn new(hub: &'a Hub, repo: &'a Repo, progress: &'a mut dyn FnMut(Progress<'_>)) -> Self {
        let second = Duration::from_secs(1);
        let config = Agent::config_builder()
            .user_agent(concat!("spo/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // A token is for the hub, not for where it stores files.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(10 * second))
            .timeout_recv_response(Some(60 * second))
            .timeout_per_read(Some(60 * second))
            .build();
        Download { hub, repo, cached: Cached::of(&hub.cache, repo), agent: config.into(), progress }
    }

    /// The files of a revision. `asked` is how it was named.
    pub(crate) fn list(&self, revision: &str, asked: &str) -> Result<Listing, Failure> {
        let url =
            format!("{}/{}/revision/{}", self.hub.endpoint, self.repo.interface(), escaped(revision, ""));
        let mut response = self.get(&url, None)?;
        if !response.status().is_success() {
            return Err(self.refusal(response.status(), response.headers(), &format!("revision `{asked}`")));
        }
        let strange = |why: String| Error(format!("{url} is not what a hub says: {why}"));
        let text = response.body_mut().with_config().limit(LONGEST).read_to_vec();
        let text = text.map_err(|e| unreachable(&self.hub.endpoint, &e))?;
        let value: Value = serde_json::from_slice(&text).map_err(|e| strange(e.to_string()))?;
        let commit = value["sha"].as_str().filter(|commit| is_commit(commit));
        let commit = commit.ok_or_else(|| strange("no commit".into()))?.to_owned();
        let files = value["siblings"].as_array().into_iter().flatten();
        let mut names: Vec<String> =
            files.filter_map(|file| Some(file["rfilename"].as_str()?.to_owned())).collect();
        names.sort_unstable();
        let outside = |name: &&String| {
            name.contains('\\')
                || !Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
        };
        match names.iter().find(outside) {
            Some(name) => Err(strange(format!("a file is called {name:?}")).into()),
            None => Ok(Listing { commit, names, asked: asked.to_owned() }),
        }
    }

    /// The text of README.md, if there is one.
    pub(crate) fn readme(&mut self, listing: &Listing) -> Result<String, Failure> {
        let name = "README.md".to_owned();
        if !listing.names.contains(&name) {
            return Ok(String::new());
        }
        let found = self.files(listing, std::slice::from_ref(&name))?;
        Ok(fs::read_to_string(found.folder.join(name)).unwrap_or_default())
    }

    /// Brings files into the cache.
    pub(crate) fn files(&mut self, listing: &Listing, names: &[String]) -> Result<Snapshot, Failure> {
        let found = self.cached.snapshot(&listing.commit);
        for name in names {
            let path = found.folder.join(name);
            if !path.is_file() {
                self.file(&listing.commit, name, &path)?;
            }
        }
        if listing.asked != listing.commit {
            let reference = self.cached.reference(&listing.asked);
            write(&reference, &listing.commit).map_err(|e| kept(&reference, &e))?;
        }
        Ok(found)
    }

    fn file(&mut self, commit: &str, name: &str, path: &Path) -> Result<(), Failure> {
        let url =
            format!("{}/{}/resolve/{commit}/{}", self.hub.endpoint, self.repo.page(), escaped(name, "/"));
        let about = self.about(&url, name)?;
        let blobs = self.cached.folder.join("blobs");
        let blob = blobs.join(&about.etag);
        let failed = |e: io::Error| Failure::from(kept(&blob, &e));
        fs::create_dir_all(&blobs).map_err(failed)?;
        // The Python client locks the same file.
        let lock =
            self.hub.cache.join(".locks").join(self.repo.folder()).join(format!("{}.lock", about.etag));
        let _lock = locked(&lock).map_err(|e| kept(&lock, &e))?;
        if !blob.is_file() {
            self.blob(&about, &blobs.join(format!("{}.incomplete", about.etag)))?;
            fs::rename(blobs.join(format!("{}.incomplete", about.etag)), &blob).map_err(failed)?;
        }
        fs::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
        link(&blob, path, name.matches('/').count()).map_err(failed)
    }

    /// The identity and the size of a file. They are in the answer of the hub itself, not of where it redirects to.
    fn about(&self, asked: &str, name: &str) -> Result<About, Failure> {
        let mut url = asked.to_owned();
        for _ in 0..5 {
            let request =
                self.agent.head(&url).config().max_redirects(0).max_redirects_will_error(false).build();
            let request = self.authorized(request.header("Accept-Encoding", "identity"));
            let response = request.call().map_err(|e| unreachable(&url, &e))?;
            let headers = response.headers();
            let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            let moved =
                text("location").filter(|place| response.status().is_redirection() && place.starts_with('/'));
            if let Some(place) = moved {
                // A repository that was renamed.
                url = format!("{}{place}", origin(&url));
                continue;
            }
            if !response.status().is_success() && !response.status().is_redirection() {
                return Err(self.refusal(response.status(), headers, &format!("file `{name}`")));
            }
            let etag = text("x-linked-etag").or(text("etag")).unwrap_or_default();
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
            let plain = etag.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            if etag.is_empty() || etag.len() > 200 || !plain {
                return Err(Error(format!("{url}: the answer has no ETag, so it is none of a hub")).into());
            }
            let length = match response.status().is_success() {
                true => text("x-linked-size").or(text("content-length")),
                false => text("x-linked-size"),
            };
            let size = length.and_then(|length| length.parse().ok());
            return Ok(About { url: asked.to_owned(), name: name.to_owned(), etag, size });
        }
        Err(Error(format!("{url}: redirects without end")).into())
    }

    /// Gets what is missing of a file, and checks what came.
    fn blob(&mut self, about: &About, part: &Path) -> Result<(), Failure> {
        let About { url, name, .. } = about;
        let failed = |e: io::Error| Failure::from(kept(part, &e));
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(part);
        let mut file = open.map_err(failed)?;
        let mut attempts = 0;
        loop {
            let before = file.seek(SeekFrom::End(0)).map_err(failed)?;
            if about.size == Some(before) {
                break;
            }
            if about.size.is_some_and(|size| before > size) {
                file.set_len(0).map_err(failed)?;
                continue;
            }
            match self.rest(about, &mut file, before) {
                Ok(()) if about.size.is_none() => break,
                Ok(()) | Err(Failure::Unreachable(_)) => {}
                refused => return refused,
            }
            let now = file.metadata().map_err(failed)?.len();
            // Those that get nothing count; those that get some of it are as many as it takes.
            attempts = if now > before { 0 } else { attempts + 1 };
            if attempts == ATTEMPTS {
                let of = about.size.map_or("all".to_owned(), |size| size.to_string());
                let message = format!(
                    "{name} was interrupted after {now} of {of} bytes; the next run goes on from there"
                );
                return Err(Failure::Unreachable(message));
            }
            if attempts > 0 {
                std::thread::sleep(Duration::from_millis(100 << attempts));
            }
        }
        file.sync_all().map_err(failed)?;
        // The identity of a large file is its hash.
        if about.etag.len() == 64 && hash(&mut file).map_err(failed)? != about.etag {
            fs::remove_file(part).map_err(failed)?;
            return Err(Error(format!(
                "{url}: what came has another SHA-256 than the hub says; it was removed"
            ))
            .into());
        }
        Ok(())
    }

    /// Appends what comes of a file from a byte on.
    fn rest(&mut self, about: &About, file: &mut File, from: u64) -> Result<(), Failure> {
        let About { url, name, .. } = about;
        let failed = |e: io::Error| Failure::from(Error(format!("{name} cannot be written: {e}")));
        let mut response = self.get(url, Some(from))?;
        let mut there = match response.status() {
            StatusCode::PARTIAL_CONTENT if begins(response.headers(), from) => from,
            // Nothing is to be added to it, or it begins anew.
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => 0,
            status => return Err(self.refusal(status, response.headers(), &format!("file `{name}`"))),
        };
        file.set_len(there).and_then(|()| file.seek(SeekFrom::Start(there))).map_err(failed)?;
        if response.status() != StatusCode::OK && there != from {
            return Ok(());
        }
        let mut reader = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(Failure::Unreachable(format!("{name} was interrupted: {e}"))),
            };
            if read == 0 {
                return Ok(());
            }
            there += read as u64;
            if about.size.is_some_and(|size| there > size) {
                return Err(Error(format!("{url}: more comes than the hub says")).into());
            }
            file.write_all(&buffer[..read]).map_err(failed)?;
            (self.progress)(Progress::File(name, there, about.size.unwrap_or(there)));
        }
    }

    fn get(&self, url: &str, from: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut request = self.authorized(self.agent.get(url).header("Accept-Encoding", "identity"));
        if let Some(from) = from.filter(|from| *from > 0) {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|e| unreachable(url, &e))
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.hub.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// What an answer means that is none.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, what: &str) -> Failure {
        let code = headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let (id, kind, endpoint, page) =
            (self.repo.id(), self.repo.kind(), &self.hub.endpoint, self.repo.page());
        let token = match self.hub.token {
            Some(_) => "the token has no access",
            None => "no token was given (HF_TOKEN, or `hf auth login`)",
        };
        Failure::Refused(Error(match (code, status.as_u16()) {
            ("GatedRepo", _) => {
                format!("the {kind} `{id}` is gated, and {token}: ask for access at {endpoint}/{page}")
            }
            ("RepoNotFound", _) | ("", 401 | 403) => {
                format!("{endpoint} has no {kind} `{id}`, or it is private and {token}")
            }
            ("RevisionNotFound" | "EntryNotFound", _) | ("", 404) => {
                format!("the {kind} `{id}` on {endpoint} has no {what}")
            }
            (_, 429 | 500..) => return Failure::Unreachable(format!("{endpoint} answers with {status}")),
            _ => format!("{endpoint} answers with {status} to {what} of the {kind} `{id}`"),
        }))
    }
}

/// Whether an answer begins with a byte.
fn begins(headers: &HeaderMap, from: u64) -> bool {
    let range = headers.get("content-range").and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

fn unreachable(url: &str, error: &ureq::Error) -> Failure {
    Failure::Unreachable(format!("{} cannot be reached: {error}", origin(url)))
}

/// The scheme and the host of an address.
fn origin(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    parts.map_or(url.to_owned(), |(scheme, host)| format!("{scheme}://{host}"))
}

fn kept(path: &Path, error: &io::Error) -> Error {
    Error(format!("the cache of the hub cannot be written: {}: {error}", path.display()))
}

/// A text within an address. The characters of `plain` stay.
fn escaped(text: &str, plain: &str) -> String {
    let mut address = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        match c.is_ascii_alphanumeric() || "-_.~".contains(c) || plain.contains(c) {
            true => address.push(c),
            false => address += &format!("%{byte:02X}"),
        }
    }
    address
}

fn hash(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 17]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Waits until no other process holds a file, and holds it.
fn locked(path: &Path) -> io::Result<File> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.lock()?;
    Ok(file)
}

/// Writes a small file under another name and renames it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// Puts a blob at its place in a snapshot, `depth` folders below it.
#[cfg(unix)]
fn link(blob: &Path, path: &Path, depth: usize) -> io::Result<()> {
    let name = blob.file_name().unwrap_or_default();
    let target = Path::new(&"../".repeat(depth + 2)).join("blobs").join(name);
    // A link that is there leads nowhere, or the file would not have been asked for.
    let _ = fs::remove_file(path);
    match std::os::unix::fs::symlink(target, path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// As the Python client where links need a privilege.
#[cfg(not(unix))]
fn link(blob: &Path, path: &Path, _: usize) -> io::Result<()> {
    fs::rename(blob, path)
}
