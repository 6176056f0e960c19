{{/* What several objects need alike. A component is "proxy", "metadata" or "backup". */}}

{{- define "wharfage.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a component: never changes in an upgrade. Called with (list . COMPONENT). */}}
{{- define "wharfage.selector" -}}
{{- $top := first . -}}
app.kubernetes.io/name: {{ default $top.Chart.Name $top.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{- define "wharfage.labels" -}}
{{- $top := first . -}}
{{ include "wharfage.selector" . }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "wharfage.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "wharfage.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "wharfage.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "wharfage.metadataScheme" -}}
{{- ternary "https" "http" (ne .Values.metadata.tls.existingSecret "") -}}
{{- end -}}

{{/* Each metadata service by its own name, so that a proxy that lost one asks the next. */}}
{{- define "wharfage.metadataUrls" -}}
{{- $name := printf "%s-metadata" (include "wharfage.name" .) -}}
{{- $scheme := include "wharfage.metadataScheme" . -}}
{{- $urls := list -}}
{{- range $number := until (int .Values.metadata.replicas) -}}
{{- $urls = append $urls (printf "%s://%s-%d.%s.%s.svc:5050" $scheme $name $number $name $.Release.Namespace) -}}
{{- end -}}
{{- join "," $urls -}}
{{- end -}}

{{/* What a schema cannot say: which values need each other. */}}
{{- define "wharfage.check" -}}
{{- if and (not .Values.keys.existingSecret) (ne (toString (get .Values.settings "WHARFAGE_KEYS_PROVIDER")) "kms") -}}
{{- fail "keys.existingSecret: name a Secret with master.json, or set settings.WHARFAGE_KEYS_PROVIDER to kms" -}}
{{- end -}}
{{- if not (or .Values.metadata.tls.existingSecret .Values.metadata.plaintext) -}}
{{- fail "metadata.tls.existingSecret: name a Secret with tls.crt, tls.key and ca.crt, or say metadata.plaintext: true where the network encrypts" -}}
{{- end -}}
{{- if and .Values.metadata.tls.existingSecret .Values.metadata.plaintext -}}
{{- fail "metadata.plaintext and metadata.tls.existingSecret: choose one" -}}
{{- end -}}
{{- if and (hasPrefix "http:" .Values.s3.endpoint) (not .Values.s3.plaintext) -}}
{{- fail "s3.endpoint: give https://, or say s3.plaintext: true where the network encrypts" -}}
{{- end -}}
{{- if and .Values.s3.caFile (not .Values.authorities.existingConfigMap) -}}
{{- fail "authorities.existingConfigMap: s3.caFile is a file of it" -}}
{{- end -}}
{{- if and .Values.backup.enabled (not (and .Values.backup.passphrase.existingSecret .Values.backup.volume.existingClaim)) -}}
{{- fail "backup.passphrase.existingSecret and backup.volume.existingClaim: a backup needs both" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (hasPrefix "https://" .Values.url) (not .Values.ingress.tls.secretName) -}}
{{- fail "ingress.tls.secretName: url is https, so the ingress needs a certificate" -}}
{{- end -}}
{{- end -}}

{{/* The part of a pod that is the same for all components. Called with (list . COMPONENT). */}}
{{- define "wharfage.podBase" -}}
{{- $top := first . -}}
{{- $own := get $top.Values (last .) -}}
serviceAccountName: {{ include "wharfage.serviceAccount" $top }}
automountServiceAccountToken: false
{{/* A Service called wharfage would have Kubernetes set WHARFAGE_PORT and more like it. */ -}}
enableServiceLinks: false
{{- with $top.Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "wharfage.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "wharfage.selector" . | nindent 8 }}
{{- with $own.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with $own.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- end -}}

{{- define "wharfage.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Secrets and free settings of all components. */}}
{{- define "wharfage.sharedEnv" -}}
- name: WHARFAGE_METADATA_SECRET
  valueFrom: {secretKeyRef: {name: {{ .Values.metadata.existingSecret }}, key: secret}}
- name: WHARFAGE_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .Values.admin.existingSecret }}, key: access-key-id}}
- name: WHARFAGE_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .Values.admin.existingSecret }}, key: secret-access-key}}
{{- end -}}

{{/* How the bucket is reached: nothing, where AWS's usual chain has it. */}}
{{- define "wharfage.storeEnv" -}}
{{- with .Values.s3.existingSecret -}}
- name: WHARFAGE_STORAGE_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ . }}, key: access-key-id}}
- name: WHARFAGE_STORAGE_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: secret-access-key}}
{{- end -}}
{{- end -}}

{{- define "wharfage.databaseEnv" -}}
- name: WHARFAGE_METADATA_DATABASE
  valueFrom: {secretKeyRef: {name: {{ .Values.metadata.database.existingSecret }}, key: url}}
{{- end -}}

{{- define "wharfage.sharedMounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- if .Values.keys.existingSecret }}
- {name: keys, mountPath: /keys, readOnly: true}
{{- end }}
{{- if .Values.metadata.tls.existingSecret }}
- {name: metadata-tls, mountPath: /tls, readOnly: true}
{{- end }}
{{- if .Values.authorities.existingConfigMap }}
- {name: authorities, mountPath: /authorities, readOnly: true}
{{- end }}
{{- end -}}

{{/* Called with (list . COMPONENT): only the services get the certificate's key. */}}
{{- define "wharfage.sharedVolumes" -}}
{{- $top := first . -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- with $top.Values.authorities.existingConfigMap }}
- name: authorities
  configMap: {name: {{ . }}}
{{- end }}
{{- with $top.Values.keys.existingSecret }}
- name: keys
  {{- /* The pod's group may read it, nobody else: the program refuses keys that are open to others. */}}
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: master.json, path: master.json}]}
{{- end }}
{{- with $top.Values.metadata.tls.existingSecret }}
- name: metadata-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
{{- if eq (last $) "metadata" }}
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- end }}
{{- end -}}
