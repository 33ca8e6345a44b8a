//! The page at /docs: the OpenAPI document as plain HTML, written once at start.
//!
//! The usual viewers are megabytes of script loaded from a content network at run time. This page
//! works without the internet and needs no script, so that its content policy can forbid both.

use crate::openapi::operations;
use serde_json::Value;
use std::fmt::Write;
use utoipa::openapi::OpenApi;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;\
padding:0 1rem;color:#222;background:#fff}code,pre{font:13px/1.45 ui-monospace,monospace}\
pre{background:#f5f5f5;padding:.6rem;overflow:auto}summary{cursor:pointer;padding:.3rem 0}\
details{border-bottom:1px solid #ddd}details>div{padding:0 0 .8rem 1rem}b.m{display:inline-block;\
width:4.5rem}table{border-collapse:collapse}td{padding:.15rem .8rem .15rem 0;vertical-align:top}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#242424}\
details{border-color:#444}a{color:#8bf}}";

/// The whole page.
pub(crate) fn page(document: &OpenApi) -> String {
    let json = serde_json::to_value(document).unwrap_or_default();
    let title = escape(&document.info.title);
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title} API</title><style>{STYLE}</style>\
         <h1>{title} API</h1>{}<p><a href=\"/openapi.json\">/openapi.json</a></p>",
        paragraphs(document.info.description.as_deref().unwrap_or_default())
    );
    for tag in document.tags.iter().flatten() {
        let about = tag.description.as_deref().unwrap_or_default();
        let _ = write!(html, "<h2>{}</h2>{}", escape(&tag.name), paragraphs(about));
        for (path, item) in &document.paths.paths {
            for (method, operation) in operations(item) {
                let tags = operation.tags.as_deref().unwrap_or_default();
                if tags.contains(&tag.name) {
                    let slot = method.as_str().to_ascii_lowercase();
                    let value = &json["paths"][path][slot];
                    render_operation(&mut html, method.as_str(), path, value);
                }
            }
        }
    }
    html.push_str("<h2>Shapes</h2>");
    if let Some(schemas) = json["components"]["schemas"].as_object() {
        for (name, schema) in schemas {
            let _ = write!(
                html,
                "<details id=\"{id}\"><summary><code>{id}</code></summary><div>",
                id = escape(name)
            );
            render_schema(&mut html, schema);
            html.push_str("</div></details>");
        }
    }
    html.push_str("</html>\n");
    html
}

fn render_operation(html: &mut String, method: &str, path: &str, operation: &Value) {
    let summary = text(&operation["summary"]);
    let _ = write!(
        html,
        "<details><summary><b class=\"m\">{method}</b> <code>{}</code> {}</summary><div>{}",
        escape(path),
        inline(summary),
        paragraphs(text(&operation["description"]))
    );
    if let Some(parameters) = operation["parameters"].as_array() {
        html.push_str("<table>");
        for parameter in parameters {
            let _ = write!(
                html,
                "<tr><td><code>{}</code><td>{}<td>{}<td>{}",
                escape(text(&parameter["name"])),
                escape(text(&parameter["in"])),
                kind(&parameter["schema"]),
                inline(text(&parameter["description"]))
            );
        }
        html.push_str("</table>");
    }
    if operation["requestBody"].is_object() {
        let _ = write!(html, "<p>Body: {}</p>", content(&operation["requestBody"]));
    }
    html.push_str("<table>");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let _ = write!(
            html,
            "<tr><td><code>{}</code><td>{}<td>{}",
            escape(status),
            content(response),
            inline(text(&response["description"]))
        );
    }
    html.push_str("</table></div></details>");
}

fn render_schema(html: &mut String, schema: &Value) {
    html.push_str(&paragraphs(text(&schema["description"])));
    let required = schema["required"].as_array();
    let is_required =
        |name: &str| required.is_some_and(|names| names.iter().any(|required| required == name));
    let Some(fields) = schema["properties"].as_object() else {
        let _ = write!(html, "<p>{}</p>", kind(schema));
        return;
    };
    html.push_str("<table>");
    for (name, field) in fields {
        let _ = write!(
            html,
            "<tr><td><code>{}</code>{}<td>{}<td>{}",
            escape(name),
            if is_required(name) { "" } else { "?" },
            kind(field),
            inline(text(&field["description"]))
        );
    }
    html.push_str("</table>");
}

/// The media types and shapes of a body.
fn content(body: &Value) -> String {
    let mut parts = Vec::new();
    for (media, content) in body["content"].as_object().into_iter().flatten() {
        parts.push(format!(
            "{} <small>{}</small>",
            kind(&content["schema"]),
            escape(media)
        ));
    }
    parts.join(", ")
}

/// A schema in a few words, linked to the shape that it names.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
    {
        let name = escape(name);
        return format!("<a href=\"#{name}\"><code>{name}</code></a>");
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(options) = schema[choice].as_array() {
            let options: Vec<String> = options.iter().map(kind).collect();
            return options.join(" or ");
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| escape(text(word))).collect();
        return words.join(" | ");
    }
    let name = match &schema["type"] {
        Value::Array(kinds) => {
            let kinds: Vec<&str> = kinds.iter().map(text).collect();
            kinds.join(" or ")
        }
        kind => text(kind).to_owned(),
    };
    match schema["items"].is_null() {
        true => escape(&name),
        false => format!("list of {}", kind(&schema["items"])),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn paragraphs(text: &str) -> String {
    text.split("\n\n")
        .filter(|part| !part.trim().is_empty())
        .map(|part| format!("<p>{}</p>", inline(part)))
        .collect()
}

/// Escaped text with `code` marked.
fn inline(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in text.split('`').enumerate() {
        let part = escape(part);
        if index % 2 == 1 {
            let _ = write!(html, "<code>{part}</code>");
        } else {
            html.push_str(&part);
        }
    }
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi;

    #[test]
    fn the_page_has_every_operation_and_loads_nothing() {
        let document = openapi();
        let html = page(&document);
        for (path, item) in &document.paths.paths {
            for (method, _) in operations(item) {
                let heading = format!("<b class=\"m\">{method}</b> <code>{path}</code>");
                assert!(html.contains(&heading), "{method} {path} is missing");
            }
        }
        for outside in ["<script", "src=", "http://", "https://", "@import", "url("] {
            assert!(!html.contains(outside), "the page has {outside}");
        }
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            inline("<b> `a&b` \"x\""),
            "&lt;b&gt; <code>a&amp;b</code> &quot;x&quot;"
        );
    }
}
