//! A browser, by WebDriver: https://www.w3.org/TR/webdriver2/

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::LONG;

/// What WebDriver calls the id of an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// chromedriver, which starts browsers.
pub struct Driver {
    child: Child,
    port: u16,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Driver {
    pub fn start() -> Self {
        let mut command = Command::new("chromedriver");
        let child = command.args(["--port=0"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("chromedriver (package chromium-driver) is needed by this test: make browser");
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = |line: String| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok();
        let port = said.find_map(port);
        Self { child, port: port.expect("chromedriver says where it listens") }
    }
}

/// A browser with a profile of its own. It is closed when it is dropped.
pub struct Browser<'a> {
    driver: &'a Driver,
    session: String,
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        let _ = self.send("DELETE", "", None);
    }
}

impl<'a> Browser<'a> {
    pub fn start(driver: &'a Driver, profile: &Path) -> Self {
        let data = format!("--user-data-dir={}", profile.display());
        // As root, in a container or in CI, it has no sandbox of its own.
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", &data];
        let options = json!({ "goog:chromeOptions": { "args": arguments } });
        let mut browser = Self { driver, session: String::new() };
        let session = browser.send("POST", "", Some(&json!({ "capabilities": { "alwaysMatch": options } }))).unwrap();
        browser.session = format!("/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Value> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LONG))
            .proxy(None)
            .build()
            .into();
        let url = format!("http://127.0.0.1:{}/session{}{path}", self.driver.port, self.session);
        let mut response = match (method, body) {
            ("POST", body) => agent.post(url).send(body.map_or("{}".into(), Value::to_string)),
            ("DELETE", _) => agent.delete(url).call(),
            _ => agent.get(url).call(),
        }
        .map_err(|error| Value::from(error.to_string()))?;
        let said = response.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        let mut value: Value = serde_json::from_str(&said).unwrap();
        let value = value["value"].take();
        if response.status() == 200 { Ok(value) } else { Err(value) }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.send("POST", path, Some(body)).unwrap_or_else(|error| panic!("{path} {error}"))
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    pub fn reload(&self) {
        self.post("/refresh", &json!({}));
    }

    /// What a script returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What a script hands to `done`.
    pub fn run_async(&self, script: &str) -> Value {
        let script = format!("const done = arguments[arguments.length - 1];\n{script}");
        self.post("/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Something of the browser that WebDriver has no word for.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Waits until a script returns something that is true.
    pub fn wait(&self, condition: &str) -> Value {
        let until = Instant::now() + LONG;
        loop {
            let value = self.run(&format!("return {condition}"));
            if !matches!(value, Value::Null | Value::Bool(false)) && value != "" && value != 0 {
                return value;
            }
            assert!(Instant::now() < until, "`{condition}` stays {value} in: {}", self.text());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The first element of a selector, once it is there.
    fn element(&self, selector: &str) -> String {
        self.wait(&format!("!!document.querySelector({selector:?})"));
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.post(&format!("/element/{element}/click"), &json!({}));
    }

    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("/element/{element}/value"), &json!({ "text": text }));
    }

    /// Presses a key, wherever the focus is.
    pub fn press(&self, key: char) {
        let keys = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": keys }] }));
    }

    /// All that the page shows.
    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    pub fn screenshot(&self) -> Vec<u8> {
        let image = self.send("GET", "/screenshot", None).unwrap();
        data_encoding::BASE64.decode(image.as_str().unwrap().as_bytes()).unwrap()
    }
}
