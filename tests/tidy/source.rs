//! Rust source for the rules: what is code, what is comment, and what stands in each. It knows
//! enough of the language for formatted code, and no more.

/// A file, taken apart: two texts with the lines of the original, one with the code alone, one with
/// the comments alone; strings are in neither.
pub struct Source {
    code: String,
    comments: String,
}

#[derive(Clone, Copy, PartialEq)]
enum In {
    Code,
    Line,
    Block(u32),
    Text,
    Raw(usize),
}

impl Source {
    pub fn new(text: &str) -> Source {
        let (mut code, mut comments) = (String::new(), String::new());
        let chars: Vec<char> = text.chars().collect();
        let (mut state, mut i) = (In::Code, 0);
        while i < chars.len() {
            let (next, step) = advance(state, &chars, i);
            for c in &chars[i..i + step] {
                let stay = |mine: bool| if mine || *c == '\n' { *c } else { ' ' };
                let comment = |s: In| matches!(s, In::Line | In::Block(_));
                code.push(stay(state == In::Code && next == In::Code));
                comments.push(stay(comment(state) || comment(next)));
            }
            state = next;
            i += step;
        }
        Source { code, comments }
    }

    /// What follows `crate::` in code: line, name (empty before a brace), and whether it is
    /// `$crate`.
    pub fn crate_names(&self) -> Vec<(usize, &str, bool)> {
        names(&self.code)
    }

    /// What follows `crate::` in comments: line and name.
    pub fn crate_names_in_comments(&self) -> Vec<(usize, &str)> {
        names(&self.comments).into_iter().map(|(line, name, _)| (line, name)).collect()
    }

    /// Lines of code in which a path begins with this name.
    pub fn lines_with_path(&self, name: &str) -> Vec<usize> {
        let path = format!("{name}::");
        let begins = |line: &str| {
            let free = |c: char| !is_name(c) && c != ':';
            line.match_indices(&path).any(|(at, _)| line[..at].chars().last().is_none_or(free))
        };
        let lines = self.code.lines().enumerate();
        lines.filter(|(_, l)| begins(l)).map(|(n, _)| n + 1).collect()
    }

    /// Each word of the code with its line.
    pub fn code_words(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.lines().enumerate();
        lines.flat_map(|(n, l)| l.split(|c| !is_name(c)).map(move |w| (n + 1, w)))
    }

    /// Line, name and number of lines of each function. A function ends at the next closing brace
    /// with its own indentation.
    pub fn functions(&self) -> Vec<(usize, String, usize)> {
        let lines: Vec<&str> = self.code.lines().collect();
        let mut found = Vec::new();
        for (n, line) in lines.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            let indent = line.len() - line.trim_start().len();
            let one_line = line.trim_end().ends_with(['}', ';']);
            let rest = lines[n..].iter().position(|l| one_line || ends_function(indent, l));
            let rest = rest.unwrap_or(0);
            found.push((n + 1, name.to_owned(), rest + 1));
        }
        found
    }
}

/// The state after the next piece of the text, and the piece's length.
fn advance(state: In, chars: &[char], i: usize) -> (In, usize) {
    let at = |k: usize| chars.get(i + k).copied().unwrap_or('\0');
    match state {
        In::Code => begin(chars, i),
        In::Line if at(0) == '\n' => (In::Code, 1),
        In::Block(1) if (at(0), at(1)) == ('*', '/') => (In::Code, 2),
        In::Block(n) if (at(0), at(1)) == ('*', '/') => (In::Block(n - 1), 2),
        In::Block(n) if (at(0), at(1)) == ('/', '*') => (In::Block(n + 1), 2),
        In::Text if at(0) == '\\' => (In::Text, 2.min(chars.len() - i)),
        In::Text if at(0) == '"' => (In::Code, 1),
        In::Raw(n) if at(0) == '"' && (1..=n).all(|k| at(k) == '#') => (In::Code, 1 + n),
        other => (other, 1),
    }
}

/// The same, where code stands now.
fn begin(chars: &[char], i: usize) -> (In, usize) {
    let at = |k: usize| chars.get(i + k).copied().unwrap_or('\0');
    let after_name = i > 0 && is_name(chars[i - 1]);
    match (at(0), at(1)) {
        ('/', '/') => (In::Line, 2),
        ('/', '*') => (In::Block(1), 2),
        ('"', _) => (In::Text, 1),
        // A quoted quote, as a character; other characters need no care.
        ('\'', '"') if at(2) == '\'' => (In::Code, 3),
        ('\'', '\\') => (In::Code, 3.min(chars.len() - i)),
        ('r', '"' | '#') if !after_name || chars[i - 1] == 'b' => {
            let hashes = (1..).take_while(|k| at(*k) == '#').count();
            if at(1 + hashes) == '"' { (In::Raw(hashes), 2 + hashes) } else { (In::Code, 1) }
        }
        _ => (In::Code, 1),
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn names(text: &str) -> Vec<(usize, &str, bool)> {
    let mut found = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for (at, crate_) in line.match_indices("crate::") {
            let before = line[..at].chars().last();
            if before.is_some_and(is_name) {
                continue;
            }
            let rest = &line[at + crate_.len()..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push((n + 1, &rest[..end], before == Some('$')));
        }
    }
    found
}

/// Whether a line of this indentation ends a function: its brace, or the end of a declaration.
fn ends_function(indent: usize, line: &str) -> bool {
    let text = line.trim();
    let ends = text == "}" || text.starts_with(')') && text.ends_with(';');
    ends && line.len() - line.trim_start().len() == indent
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.trim_start().split(' ');
    let before = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "extern", "async"];
    // Strings are blank in code, so the "C" of extern "C" leaves empty words.
    words.find(|w| !w.is_empty() && !before.contains(w)).filter(|w| *w == "fn")?;
    words.next()?.split(['(', '<']).next()
}

/// The words of a line in small letters; names are taken apart at `_` and at capitals.
pub fn words(line: &str) -> Vec<String> {
    let mut all: Vec<String> = vec![String::new()];
    let mut small_before = false;
    for c in line.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && small_before {
            all.push(String::new());
        }
        if c.is_alphanumeric() {
            all.last_mut().unwrap().extend(c.to_lowercase());
        }
        small_before = c.is_lowercase();
    }
    all.retain(|w| !w.is_empty());
    all
}
