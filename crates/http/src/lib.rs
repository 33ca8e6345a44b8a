//! Botstead's HTTP API: routes, shapes, errors, OpenAPI.
