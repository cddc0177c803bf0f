//! Functions: their names and lengths.

use crate::source::File;

/// A function with a body.
pub(crate) struct Function {
    pub(crate) name: String,
    /// Lines from its signature to the brace that closes it.
    pub(crate) lines: usize,
    pub(crate) is_test: bool,
}

/// The functions of a file, also those inside of others.
pub(crate) fn functions(file: &File) -> Vec<Function> {
    let lines: Vec<&str> = file.code.lines().collect();
    let starts = lines.iter().enumerate();
    let found = starts.filter_map(|(at, line)| Some((at, name(line)?)));
    found
        .filter_map(|(at, name)| {
            let length = length(&lines[at..])?;
            let attributes = lines[..at].iter().rev();
            let mut attributes = attributes.take_while(|line| is_attribute(line));
            Some(Function {
                name: name.to_owned(),
                lines: length,
                is_test: attributes.any(|line| line.contains("test")),
            })
        })
        .collect()
}

/// The name of the function that begins on a line.
fn name(line: &str) -> Option<&str> {
    let mut words = line.trim_start().split(' ');
    words
        .find(|word| !is_qualifier(word))
        .filter(|word| *word == "fn")?;
    let name = words.next()?;
    name.split(['(', '<']).next()
}

fn is_qualifier(word: &str) -> bool {
    let known = ["async", "const", "unsafe", "extern", "", "in"];
    known.contains(&word) || word.starts_with("pub") || word.ends_with(')')
}

fn is_attribute(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with("#[") || line.starts_with(')') || line.ends_with(',')
}

/// The lines of the function that begins at the first of these lines. The closing brace stands
/// under the signature, as rustfmt has it.
fn length(lines: &[&str]) -> Option<usize> {
    let indent = lines[0].len() - lines[0].trim_start().len();
    let is_end = |line: &str| {
        let own = line.len() - line.trim_start().len();
        own == indent && (line.trim_start().starts_with('}') || line.ends_with(';'))
    };
    if lines[0].trim_end().ends_with(['}', ';']) {
        return lines[0].contains('{').then_some(1);
    }
    let end = lines.iter().skip(1).position(|line| is_end(line))? + 1;
    lines[end].trim_start().starts_with('}').then_some(end + 1)
}

#[test]
fn functions_are_found_with_their_lengths() {
    let code = "impl A {\n    pub(crate) async fn a(\n        b: u8,\n    ) -> u8 {\n        1\n    }\n\
                \n    #[test]\n    fn c() {}\n}\nfn d();\n";
    let file = File {
        path: String::new(),
        module: Vec::new(),
        text: code.to_owned(),
        code: code.to_owned(),
        paths: Vec::new(),
        is_test: false,
    };
    let found = functions(&file);
    let found: Vec<_> = found
        .iter()
        .map(|f| (&*f.name, f.lines, f.is_test))
        .collect();
    assert_eq!(found, [("a", 5, false), ("c", 1, true)]);
}
