"""Empty answers about what users and roles never have here: instance profiles, MFA devices, passwords, certificates.

Clients list these before they delete a user or role.
"""

from __future__ import annotations

from typing import Any

from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations.iam import names, users
from proxy.metadata.operations.iam.names import ROLE, Parameters
from proxy.model.errors import Code, Failure


def list_instance_profiles_for_role(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    names.need(tx, account, ROLE, parameters["RoleName"])
    return {"InstanceProfiles": [], "IsTruncated": False}


def list_mfa_devices(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    users.named(tx, account, parameters)
    return {"MFADevices": [], "IsTruncated": False}


def list_virtual_mfa_devices(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    return {"VirtualMFADevices": [], "IsTruncated": False}


def list_ssh_public_keys(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    users.named(tx, account, parameters)
    return {"SSHPublicKeys": [], "IsTruncated": False}


def list_signing_certificates(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    users.named(tx, account, parameters)
    return {"Certificates": [], "IsTruncated": False}


def list_service_specific_credentials(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    if not parameters.get("AllUsers"):
        users.named(tx, account, parameters)
    return {"ServiceSpecificCredentials": [], "IsTruncated": False}


def login_profile(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """GetLoginProfile and DeleteLoginProfile: there are no passwords. Failure(NoSuchEntity)."""
    name = users.named(tx, account, parameters).name
    raise Failure(Code.NO_SUCH_ENTITY, f"Login Profile for User {name} cannot be found.")
