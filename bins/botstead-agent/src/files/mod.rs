//! Files of the workspace: the service `Files` of the protocol.
