//! Numbers of Part 2: commands, algorithms, handles, attributes. Only those that are used.

/// `TPM_ST_NO_SESSIONS`.
pub const NO_SESSIONS: u16 = 0x8001;
/// `TPM_ST_SESSIONS`.
pub const SESSIONS: u16 = 0x8002;
/// `TPM_ST_ATTEST_QUOTE`.
pub const ATTEST_QUOTE: u16 = 0x8018;
/// `TPM_GENERATED_VALUE`: the TPM signs nothing of a stranger's that begins with it, so that only the TPM can have said it.
pub const GENERATED: u32 = 0xff54_4347;

/// `TPM_ALG_RSA`.
pub const RSA: u16 = 0x0001;
/// `TPM_ALG_HMAC`.
pub const HMAC: u16 = 0x0005;
/// `TPM_ALG_AES`.
pub const AES: u16 = 0x0006;
/// `TPM_ALG_KEYEDHASH`.
pub const KEYED_HASH: u16 = 0x0008;
/// `TPM_ALG_SHA256`.
pub const SHA256: u16 = 0x000b;
/// `TPM_ALG_NULL`.
pub const NULL: u16 = 0x0010;
/// `TPM_ALG_ECDSA`.
pub const ECDSA: u16 = 0x0018;
/// `TPM_ALG_ECC`.
pub const ECC: u16 = 0x0023;
/// `TPM_ALG_CFB`.
pub const CFB: u16 = 0x0043;
/// `TPM_ECC_NIST_P256`.
pub const P256: u16 = 0x0003;

/// `TPM_RH_NULL`.
pub const HANDLE_NULL: u32 = 0x4000_0007;
/// `TPM_RH_OWNER`.
pub const OWNER: u32 = 0x4000_0001;
/// `TPM_RS_PW`: a password instead of a session.
pub const PASSWORD: u32 = 0x4000_0009;
/// `TPM_RH_ENDORSEMENT`.
pub const ENDORSEMENT: u32 = 0x4000_000b;
/// Where the maker left the certificate of the RSA 2048 EK (EK Credential Profile 2.2.1.4).
pub const EK_CERTIFICATE: u32 = 0x01c0_0002;

/// `TPM_CC_CreatePrimary`.
pub const CREATE_PRIMARY: u32 = 0x131;
/// `TPM_CC_ActivateCredential`.
pub const ACTIVATE_CREDENTIAL: u32 = 0x147;
/// `TPM_CC_NV_Read`.
pub const NV_READ: u32 = 0x14e;
/// `TPM_CC_PolicySecret`.
pub const POLICY_SECRET: u32 = 0x151;
/// `TPM_CC_HMAC`.
pub const COMMAND_HMAC: u32 = 0x155;
/// `TPM_CC_Quote`.
pub const QUOTE: u32 = 0x158;
/// `TPM_CC_FlushContext`.
pub const FLUSH_CONTEXT: u32 = 0x165;
/// `TPM_CC_NV_ReadPublic`.
pub const NV_READ_PUBLIC: u32 = 0x169;
/// `TPM_CC_StartAuthSession`.
pub const START_AUTH_SESSION: u32 = 0x176;
/// `TPM_CC_ReadClock`.
pub const READ_CLOCK: u32 = 0x181;
/// `TPM_CC_PCR_Read`.
pub const PCR_READ: u32 = 0x17e;
