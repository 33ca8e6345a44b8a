//! Compiles the protocol, for the sides that are asked for. Needs protoc:
//! `apt-get install protobuf-compiler`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let side = |feature: &str| std::env::var_os(feature).is_some();
    tonic_prost_build::configure()
        .build_client(side("CARGO_FEATURE_CLIENT"))
        .build_server(side("CARGO_FEATURE_SERVER"))
        .build_transport(false)
        // Data of files and outputs is passed on without a copy.
        .bytes(".botstead.agent.v1")
        .codec_path("crate::codec::Codec")
        .compile_protos(&["proto/agent.proto"], &["proto"])?;
    Ok(())
}
