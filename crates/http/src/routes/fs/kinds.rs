//! The media type that a download says, from a file's name.

/// Endings that are text here, whatever else they are in the world: `.ts` is a video there.
const TEXT: &[&str] = &[
    "adoc",
    "bash",
    "bashrc",
    "bat",
    "bib",
    "c",
    "cc",
    "cfg",
    "clj",
    "cljs",
    "cmake",
    "cmd",
    "conf",
    "cpp",
    "cs",
    "cts",
    "cxx",
    "dart",
    "diff",
    "dockerignore",
    "editorconfig",
    "el",
    "env",
    "erl",
    "ex",
    "exs",
    "fish",
    "fs",
    "gitattributes",
    "gitignore",
    "gitmodules",
    "go",
    "gql",
    "gradle",
    "graphql",
    "h",
    "hcl",
    "hh",
    "hpp",
    "hrl",
    "hs",
    "ignore",
    "ini",
    "ipynb",
    "java",
    "jl",
    "jsx",
    "kt",
    "kts",
    "lisp",
    "lock",
    "log",
    "lua",
    "m",
    "mk",
    "ml",
    "mli",
    "mm",
    "mod",
    "mts",
    "nim",
    "nix",
    "npmrc",
    "org",
    "pas",
    "patch",
    "php",
    "pl",
    "pm",
    "profile",
    "properties",
    "proto",
    "ps1",
    "py",
    "pyi",
    "r",
    "rb",
    "rs",
    "rst",
    "s",
    "sbt",
    "scala",
    "service",
    "sh",
    "sol",
    "sql",
    "sum",
    "svelte",
    "swift",
    "tcl",
    "tex",
    "tf",
    "tfvars",
    "timer",
    "toml",
    "ts",
    "tsx",
    "v",
    "vim",
    "vue",
    "yaml",
    "yml",
    "zig",
    "zsh",
];

/// Names without an ending that are text.
const NAMES: &[&str] = &[
    "authors",
    "changelog",
    "containerfile",
    "copying",
    "dockerfile",
    "gemfile",
    "jenkinsfile",
    "license",
    "makefile",
    "notice",
    "passwd",
    "procfile",
    "rakefile",
    "readme",
    "vagrantfile",
];

const PLAIN: &str = "text/plain; charset=utf-8";

/// The media type of a file with this name; what is text is said to be UTF-8, as nearly all of it is.
pub(super) fn media_type(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let known = match name.rsplit_once('.') {
        Some((_, ending)) => TEXT.binary_search(&ending).is_ok(),
        None => NAMES.binary_search(&name.as_str()).is_ok(),
    };
    if known {
        return PLAIN.to_owned();
    }
    let guessed = mime_guess::from_path(&name).first_or_octet_stream();
    match guessed.type_() == mime_guess::mime::TEXT {
        true => format!("{}; charset=utf-8", guessed.essence_str()),
        false => guessed.essence_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_the_search() {
        assert!(TEXT.is_sorted() && NAMES.is_sorted());
    }

    #[test]
    fn sources_are_text_and_text_says_its_charset() {
        for (name, expected) in [
            ("main.ts", PLAIN),
            ("APP.TSX", PLAIN),
            ("lib.rs", PLAIN),
            ("run.sh", PLAIN),
            ("Makefile", PLAIN),
            (".gitignore", PLAIN),
            ("notes.txt", PLAIN),
            ("a.html", "text/html; charset=utf-8"),
            ("a.md", "text/markdown; charset=utf-8"),
            ("a.csv", "text/csv; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.png", "image/png"),
            ("a.mp4", "video/mp4"),
            ("a.bin", "application/octet-stream"),
            ("nothing", "application/octet-stream"),
        ] {
            assert_eq!(media_type(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(media_type(b"\xff.txt"), PLAIN);
    }
}
