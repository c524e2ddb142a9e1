//! The words of a PTX text, with their lines.

use anyhow::{Context, Result, bail, ensure};

/// A word or a sign.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// As it stands in the text.
    pub text: &'a str,
    /// Its line, from 1.
    pub line: u32,
}

/// The words of a text, taken one after the other.
#[derive(Debug, Default)]
pub struct Tokens<'a> {
    /// Each with the byte at which it begins.
    all: Vec<(Token<'a>, usize)>,
    next: usize,
}

/// Cuts a text into words. Comments are left out.
///
/// Errors: a sign that PTX does not have.
pub fn tokenize(text: &str) -> Result<Tokens<'_>> {
    let bytes = text.as_bytes();
    let mut all = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let begin = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..].iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len() - at);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let length = text[at..].find("*/").with_context(|| format!("PTX line {line}: a comment without an end"))? + 2;
                line += bytes[at..at + length].iter().filter(|&&byte| byte == b'\n').count() as u32;
                at += length;
                continue;
            }
            b'"' => {
                let length = bytes[at + 1..]
                    .iter()
                    .position(|&byte| byte == b'"')
                    .with_context(|| format!("PTX line {line}: a text without an end"))?;
                at += length + 2;
            }
            first if is_of_word(first) => {
                while at < bytes.len() && is_of_word(bytes[at]) || bytes[at..].starts_with(b"::") {
                    at += if bytes[at] == b':' { 2 } else { 1 };
                }
            }
            b'@' | b'!' | b'|' | b'[' | b']' | b'{' | b'}' | b'(' | b')' | b',' | b';' | b':' | b'+' | b'-' | b'=' | b'<' | b'>' => at += 1,
            other => bail!("PTX line {line}: `{}` is no sign of PTX", char::from(other)),
        }
        all.push((Token { text: &text[begin..at], line }, begin));
    }
    Ok(Tokens { all, next: 0 })
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

impl<'a> Tokens<'a> {
    /// The next word, if there is one.
    pub fn take(&mut self) -> Option<Token<'a>> {
        let (token, _) = self.all.get(self.next)?;
        self.next += 1;
        Some(*token)
    }

    /// The next word.
    ///
    /// Errors: there is none.
    pub fn need(&mut self) -> Result<Token<'a>> {
        self.take().context("PTX ends too early")
    }

    /// Takes the next word if it is this one.
    pub fn take_if(&mut self, text: &str) -> bool {
        let is_next = self.all.get(self.next).is_some_and(|(token, _)| token.text == text);
        self.next += usize::from(is_next);
        is_next
    }

    /// Takes this word.
    ///
    /// Errors: another one is there.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        let token = self.need()?;
        ensure!(token.text == text, "PTX line {}: found `{}`; expected `{text}`", token.line, token.text);
        Ok(())
    }

    /// The next word, which is no sign.
    ///
    /// Errors: it is one.
    pub fn word(&mut self) -> Result<&'a str> {
        let token = self.need()?;
        let is_word = token.text.bytes().all(is_of_word);
        ensure!(is_word, "PTX line {}: found `{}`; expected a word", token.line, token.text);
        Ok(token.text)
    }

    /// A number without a sign.
    ///
    /// Errors: it is none.
    pub fn number(&mut self) -> Result<u32> {
        let token = self.need()?;
        token.text.parse().with_context(|| format!("PTX line {}: found `{}`; expected a number", token.line, token.text))
    }

    /// True if a word stands between here and the brace that closes the one taken last.
    pub fn are_there(&self, text: &str) -> bool {
        let mut depth = 1;
        for (token, _) in &self.all[self.next..] {
            match token.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                word if word == text => return true,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        false
    }

    /// Where the word that was taken last begins in the text.
    pub fn offset_of_last(&self) -> usize {
        self.all.get(self.next.wrapping_sub(1)).map_or(0, |(_, offset)| *offset)
    }
}
