//! Fenced blocks of a document, and the commands of a shell block.

/// One fenced block.
pub struct Block {
    /// The document.
    pub path: String,
    /// The line of its fence, from 1.
    pub line: usize,
    /// What stands after the fence.
    pub language: String,
    /// What stands in it.
    pub text: String,
}

impl Block {
    /// `path:line`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.path, self.line)
    }
}

/// The blocks of a document, in order.
pub fn of(path: &str, text: &str) -> Vec<Block> {
    let mut out: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(language) if !open => {
                let language = language.trim().to_owned();
                out.push(Block { path: path.to_owned(), line: index + 1, language, text: String::new() });
                open = true;
            }
            Some(_) => open = false,
            None if open => {
                let block = out.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "{path}: a block is not closed");
    out
}

/// One command a line; a line that ends in `\` goes on in the next.
pub fn commands(block: &Block) -> Vec<String> {
    let joined = block.text.replace("\\\n", " ");
    joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn blocks_and_commands_are_found() {
    let text = "a\n```sh\none \\\n  two\n# why\nthree\n```\n```toml\nx = 1\n```\n";
    let found = of("a.md", text);
    assert_eq!(found.len(), 2);
    assert_eq!(commands(&found[0]), ["one    two", "three"]);
    assert_eq!((found[1].place().as_str(), found[1].language.as_str()), ("a.md:8", "toml"));
}
