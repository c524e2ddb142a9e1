//! STAR files: tables of named columns, as RELION, crYOLO, cryoSPARC's exporters and others write them.
//!
//! This file is the grammar: text to blocks and back. [`read`] knows what RELION's labels mean, [`write`](mod@write) lays
//! out the tables that other programs expect. Where STAR leaves something open, the grammar is RELION's.
//! Source: Hall 1991 (STAR), RELION's metadata_table.cpp, and docs/formats.md, "STAR".

pub mod read; //  from tables to coordinates and lists
pub mod write; // from coordinates and lists to tables

use super::coordinates::Warnings;
use super::text;
use anyhow::{Result, bail, ensure};

/// A block: `data_name` and the tables in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block<'a> {
    /// What follows `data_`; often empty.
    pub name: &'a str,
    /// The tables in the order of the file. They are the loops, and the pairs of `_label value`, which make a table of one row.
    pub tables: Vec<Table<'a>>,
}

/// A table: labels and rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table<'a> {
    /// Labels without the leading `_`, in order of appearance.
    pub labels: Vec<&'a str>,
    /// Values row by row, `labels.len()` in each row. (Rows of tables with one or two labels may be shorter in the file; they
    /// are filled up with `<NA>`.)
    pub values: Vec<&'a str>,
    /// Line of each row.
    pub row_lines: Vec<usize>,
}

impl<'a> Table<'a> {
    /// Column of a label. The exact label is looked for first, then labels that differ in upper and lower case or in the prefix
    /// `rln`.
    pub fn column(&self, label: &str) -> Option<usize> {
        find_label(&self.labels, label)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.row_lines.len()
    }

    /// True if there is no row.
    pub fn is_empty(&self) -> bool {
        self.row_lines.is_empty()
    }

    /// The rows with their line numbers.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[&'a str])> {
        self.row_lines.iter().copied().zip(self.values.chunks_exact(self.labels.len().max(1)))
    }
}

impl<'a> Block<'a> {
    /// The value of a label in a table of one row, by the rules of [`Table::column`].
    pub fn value(&self, label: &str) -> Option<&'a str> {
        let mut single = self.tables.iter().filter(|table| table.len() == 1);
        single.find_map(|table| Some(table.values[table.column(label)?]))
    }
}

fn find_label(labels: &[&str], wanted: &str) -> Option<usize> {
    fn bare(label: &str) -> &str {
        label.get(..3).filter(|start| start.eq_ignore_ascii_case("rln")).map_or(label, |_| &label[3..])
    }
    let exact = labels.iter().position(|label| *label == wanted);
    exact.or_else(|| labels.iter().position(|label| bare(label).eq_ignore_ascii_case(bare(wanted))))
}

/// Splits STAR text into its blocks.
///
/// A loop ends where RELION ends it: at an empty line. It ends only there, because a row may begin with anything: micrographs
/// in a folder called `data_day1` make rows that look like blocks.
///
/// Errors: a value before any label, a row with too many or too few values, an unclosed quote; all with the line.
/// Source: docs/formats.md, "STAR"; RELION's metadata_table.cpp, `readStarLoop` and `readStarList`.
pub fn parse<'a>(text: &'a str, warnings: &mut Warnings) -> Result<Vec<Block<'a>>> {
    let lines: Vec<(usize, &'a str)> = text::lines(text).collect();
    let mut parser = Parser { blocks: Vec::new(), place: Place::Values, list: None, warnings };
    let mut i = 0;
    while i < lines.len() {
        let (number, line) = lines[i];
        i += 1;
        if line.starts_with(';') {
            // A text field must end within the same block. If it does not, the line is an old kind of comment.
            let rest = &lines[i..];
            let end = rest.iter().position(|(_, l)| l.starts_with(';') || l.trim_start().starts_with("data_"));
            if let Some(end) = end.filter(|&end| rest[end].1.starts_with(';') && parser.awaits_value()) {
                parser.text_field(number)?;
                i += end + 1;
            }
            continue;
        }
        parser.line(number, line, &lines[i..])?;
    }
    Ok(parser.blocks)
}

/// Where in a block the parser is.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Outside of a loop.
    Values,
    /// After `loop_`, reading labels.
    Labels,
    /// After the labels, reading rows.
    Rows,
    /// After the empty line that ended a loop.
    AfterLoop,
}

struct Parser<'a, 'w> {
    blocks: Vec<Block<'a>>,
    place: Place,
    /// The table of the last block to which pairs of label and value are added, if one is open.
    list: Option<usize>,
    warnings: &'w mut Warnings,
}

impl<'a> Parser<'a, '_> {
    /// Takes in one line; `rest` are those that follow.
    fn line(&mut self, number: usize, line: &'a str, rest: &[(usize, &str)]) -> Result<()> {
        let tokens = split(line, number)?;
        let Some(first) = tokens.first().copied() else {
            if self.place == Place::Rows && line.trim().is_empty() {
                self.place = Place::AfterLoop;
            }
            return Ok(());
        };
        if let Some(name) = first.plain().and_then(|token| token.strip_prefix("data_")).filter(|_| self.is_block(&tokens, rest)) {
            self.blocks.push(Block { name, ..Block::default() });
            (self.place, self.list) = (Place::Values, None);
            return Ok(());
        }
        if first.plain() == Some("loop_") && tokens.len() == 1 {
            self.block().tables.push(Table::default());
            (self.place, self.list) = (Place::Labels, None);
            return Ok(());
        }
        let is_label = first.plain().is_some_and(|token| token.starts_with('_'));
        match self.place {
            Place::Values => self.value(number, &tokens),
            Place::AfterLoop if is_label => {
                self.place = Place::Values;
                self.value(number, &tokens)
            }
            Place::AfterLoop => {
                self.warnings.note(
                    number,
                    "this row follows an empty line and is not read: an empty line ends a table, for RELION too; remove the empty line if \
                     the rows after it belong to the table",
                );
                Ok(())
            }
            Place::Labels | Place::Rows => {
                if let (Place::Labels, Some(label)) = (self.place, first.plain().and_then(|token| token.strip_prefix('_'))) {
                    return self.label(number, line, label);
                }
                self.place = Place::Rows;
                self.row(number, &tokens)
            }
        }
    }

    /// True if a line that begins with `data_` begins a block. Within a loop such a line is a row, as it is for RELION, unless
    /// it cannot be a row, or unless the line after it can only follow the beginning of a block.
    fn is_block(&self, tokens: &[Token], rest: &[(usize, &str)]) -> bool {
        if matches!(self.place, Place::Values | Place::AfterLoop) {
            return true;
        }
        let wanted = self.blocks.last().and_then(|block| block.tables.last()).map_or(0, |table| table.labels.len());
        let mut words = rest.iter().filter_map(|(_, line)| line.split_whitespace().next()).filter(|word| !word.starts_with(['#', ';']));
        let is_followed = words.next().is_some_and(|word| word == "loop_" || word.starts_with('_'));
        // RELION lets rows of tables with one or two labels be shorter.
        tokens.len() == 1 && (wanted == 0 || wanted > 2 || is_followed)
    }

    fn label(&mut self, number: usize, line: &str, label: &'a str) -> Result<()> {
        let label = label.split('#').next().unwrap_or(label);
        ensure!(!label.is_empty(), "line {number}: '_' without a name; expected a label such as _rlnCoordinateX; correct the line");
        let table = self.table(number)?;
        table.labels.push(label);
        let place = table.labels.len();
        let stated = line.split_once('#').and_then(|(_, after)| after.split_whitespace().next()).and_then(|n| n.parse::<usize>().ok());
        if stated.is_some_and(|stated| stated != place) {
            self.warnings.note(number, "the number after # is not the place of the label; the order of the labels counts");
        }
        Ok(())
    }

    fn value(&mut self, number: usize, tokens: &[Token<'a>]) -> Result<()> {
        if self.blocks.is_empty() {
            bail!(
                "line {number}: '{}' before the first data_ block; expected STAR text; correct the file or name the format",
                text::excerpt(tokens[0].text)
            );
        }
        let Some(label) = tokens[0].plain().and_then(|token| token.strip_prefix('_')) else {
            bail!(
                "line {number}: '{}' outside of a loop; expected loop_, data_ or a label; correct the file",
                text::excerpt(tokens[0].text)
            );
        };
        let value = match tokens.len() {
            1 => "",
            2 => tokens[1].text,
            count => bail!("line {number}: {} values of _{}; expected one; put quotes around it", count - 1, text::excerpt(label)),
        };
        let open = self.list;
        let block = self.block();
        let list = open.unwrap_or_else(|| {
            block.tables.push(Table { row_lines: vec![number], ..Table::default() });
            block.tables.len() - 1
        });
        block.tables[list].labels.push(label);
        block.tables[list].values.push(value);
        self.list = Some(list);
        Ok(())
    }

    fn row(&mut self, number: usize, tokens: &[Token<'a>]) -> Result<()> {
        let table = self.table(number)?;
        let wanted = table.labels.len();
        ensure!(wanted > 0, "line {number}: values after loop_ without labels; expected labels such as _rlnCoordinateX; correct the file");
        ensure!(
            tokens.len() <= wanted,
            "line {number}: {} values; expected {wanted}, one for each label; put quotes around values with blanks",
            tokens.len()
        );
        ensure!(
            tokens.len() == wanted || wanted <= 2,
            "line {number}: {} values; expected {wanted}, one for each label; complete the row or remove it",
            tokens.len()
        );
        table.values.extend(tokens.iter().map(|token| token.text));
        table.values.extend(std::iter::repeat_n("<NA>", wanted - tokens.len()));
        table.row_lines.push(number);
        Ok(())
    }

    /// Takes in a text over several lines. Coordinate tables never need such a text, so its place is kept and its content is
    /// not.
    fn text_field(&mut self, number: usize) -> Result<()> {
        if self.place == Place::Values {
            if let Some(value) = self.list_values().and_then(|values| values.last_mut()) {
                *value = "<NA>";
            }
            return Ok(());
        }
        self.warnings.note(number, "a text over several lines inside a loop is skipped");
        Ok(())
    }

    /// True where a text over several lines may stand.
    fn awaits_value(&mut self) -> bool {
        match self.place {
            Place::Values => self.list_values().and_then(|values| values.last()).is_some_and(|value| value.is_empty()),
            Place::Labels | Place::AfterLoop => false,
            Place::Rows => true,
        }
    }

    /// The values of the list of pairs that is open, if one is.
    fn list_values(&mut self) -> Option<&mut Vec<&'a str>> {
        let list = self.list?;
        self.blocks.last_mut()?.tables.get_mut(list).map(|table| &mut table.values)
    }

    fn block(&mut self) -> &mut Block<'a> {
        if self.blocks.is_empty() {
            self.blocks.push(Block::default());
        }
        let last = self.blocks.len() - 1;
        &mut self.blocks[last]
    }

    fn table(&mut self, number: usize) -> Result<&mut Table<'a>> {
        match self.block().tables.last_mut() {
            Some(table) => Ok(table),
            None => bail!("line {number}: a row outside of a loop; expected loop_ before it; correct the file"),
        }
    }
}

/// A value. A value in quotes is never a keyword.
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    quoted: bool,
}

impl<'a> Token<'a> {
    fn plain(self) -> Option<&'a str> {
        (!self.quoted).then_some(self.text)
    }
}

/// Splits a line at blanks; `'...'` and `"..."` are one value; a token that starts with `#` ends the line.
fn split(line: &str, number: usize) -> Result<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '#' {
            break;
        }
        if first == '"' || first == '\'' {
            // A quote ends the value only before a blank or at the end of the line, so a value such as 'it's' may contain one.
            let inner = &rest[1..];
            let closes = |&(at, _): &(usize, &str)| inner[at + 1..].chars().next().is_none_or(char::is_whitespace);
            let Some((end, _)) = inner.match_indices(first).find(closes) else {
                bail!("line {number}: a quote {first} is not closed; expected its partner on the same line; correct the row");
            };
            tokens.push(Token { text: &inner[..end], quoted: true });
            rest = inner[end + 1..].trim_start();
            continue;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        tokens.push(Token { text: &rest[..end], quoted: false });
        rest = rest[end..].trim_start();
    }
    Ok(tokens)
}
